"""How a command ends early: bad input (exit status 2), a run that diverged (1), a signal n (128 + n)."""

from collections.abc import Iterable
from difflib import get_close_matches
from signal import Signals


class InputError(Exception):
    """What the user gave cannot be used. The message says what is wrong and what would be right."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the run has saved itself and can be resumed."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(Signals(signal_number).name)
        self.exit_status = 128 + signal_number


class DivergedError(Exception):
    """A loss or a score stopped being a finite number."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """One line for a name that does not exist, with the nearest valid ones (or all, where none is near)."""
    names = sorted(valid)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"
