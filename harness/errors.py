"""How a command ends early: bad input (exit status 2), runs that failed (1), a signal n (128 + n)."""

from collections.abc import Iterable
from difflib import get_close_matches
from signal import Signals

LONGEST_NAME = 80  # characters of a name that does not exist, as errors show it


class CommandError(Exception):
    """A command ends early, with its message on standard error and this exit status."""

    exit_status = 1


class InputError(CommandError):
    """What the user gave cannot be used. The message says what is wrong and what would be right."""

    exit_status = 2


class DivergedError(CommandError):
    """A loss or a score stopped being a finite number."""


class StorageError(CommandError):
    """What a run has to write could not be written, most often for want of space."""

    def __str__(self) -> str:
        return f"{self.args[0]}; free some space and run the same command again: it resumes where it last saved"


class PeerLostError(CommandError):
    """Another process of the run ended, and this one cannot go on without it."""


class RunsFailedError(CommandError):
    """Some of several runs did not finish; the others did."""


class Interrupted(CommandError):
    """SIGINT, SIGTERM or SIGUSR2 arrived; what was under way has saved itself."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)  # alone, as other processes unpickle an error from its arguments
        self.signal_name = Signals(signal_number).name
        self.exit_status = 128 + signal_number

    def __str__(self) -> str:
        return f"{self.signal_name}: saved; run the same command again to resume"


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line for a name that does not exist, with the nearest valid ones (or all, where none is near)."""
    names, name = sorted(valid), name[:LONGEST_NAME]
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"
