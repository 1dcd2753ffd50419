"""A run in trackers, through Accelerate's `log_with` and `init_trackers`: while it trains, and afterwards the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from harness.config import check_tracker
from harness.errors import InputError, Interrupted, RunsFailedError
from harness.escape import printable
from harness.record import RunFolder, State, find_run_folders
from harness.terminal import say, track
from harness.tracking.entries import Entry, describe_settings, read_entries
from harness.tracking.senders import PROJECT, SENDERS, TrackedRun

SECONDS_TO_FINISH = 60  # for a tracker to take what is left at the end of a run
SECONDS_WHEN_INTERRUPTED = 5  # a job that is preempted has little time


def require_installed(names: Sequence[str]) -> None:
    """Raises: InputError naming the extra of a tracker that Accelerate does not find."""
    if missing := list_missing(names):
        raise InputError("\n".join(missing))


def list_missing(names: Sequence[str]) -> list[str]:
    """A line for each tracker that Accelerate does not find, with how to install it."""
    there = {str(name).removesuffix("_ml") for name in get_available_trackers()}  # it says comet_ml
    lacking = [name for name in names if name not in there]
    return [f"the tracker {name} is not installed; install it: pip install 'aaebench[{name}]'" for name in lacking]


class Tracking:
    """The trackers of one run; none of them on any but the main process, where `names` is empty."""

    def __init__(self, accelerator: Accelerator, names: Sequence[str], run: TrackedRun) -> None:
        self.accelerator = accelerator
        self.senders: list[Any] = [SENDERS[name](name, run) for name in names]
        if self.senders:
            accelerator.log_with = self.senders
            accelerator.init_trackers(PROJECT, config=describe_settings(run.config))

    def send(self, entry: Entry) -> None:
        if self.senders:
            self.accelerator.log(entry.numbers, step=entry.epoch)
            for sender in self.senders:
                sender.show(entry)

    def catch_up(self, entries: Sequence[Entry]) -> None:
        for sender in self.senders:
            sender.catch_up(entries)

    def close(self, state: State, seconds: float | None = None) -> None:
        for sender in self.senders:
            sender.close(state, seconds)


@contextmanager
def tracking(accelerator: Accelerator, names: Sequence[str], run: TrackedRun) -> Iterator[Tracking]:
    """What the run had before is sent, then what the body sends; how the body ends is how the run does."""
    tracked = Tracking(accelerator, names, run)
    if tracked.senders:
        try:
            tracked.catch_up(read_entries(run.folder))
        except (OSError, ValueError) as error:
            say(f"warning: trackers are not told what {run.id} has so far: {printable(str(error))}")
    state: State = "done"
    seconds = SECONDS_TO_FINISH
    try:
        yield tracked
    except Interrupted:
        state, seconds = "queued", SECONDS_WHEN_INTERRUPTED
        raise
    except BaseException:
        state = "failed"
        raise
    finally:
        tracked.close(state, seconds)


def send_runs(runs: Path, names: Sequence[str]) -> None:
    """Send the run folders below a folder to trackers: those that are done or failed, all that they have.

    Raises: InputError if there are none, or a tracker is not installed; RunsFailedError if one was not taken.
    """
    for name in names:
        try:
            check_tracker(name)
        except ValueError as error:
            raise InputError(str(error)) from error
    require_installed(names)
    folders = list(find_run_folders(runs)) if runs.is_dir() else []
    if not folders:
        raise InputError(f"{runs} holds no run folders; `aaebench run --out {runs}` makes one")
    lost = []
    for folder in track(folders, f"sending runs to {', '.join(names)}"):
        try:
            lost += _send_run(folder, names)
        except (OSError, ValueError) as error:
            lost.append(f"{folder.path} is damaged: {error}")
    if lost:
        raise RunsFailedError(printable("\n".join(lost), lines=True))


def _send_run(folder: RunFolder, names: Sequence[str]) -> list[str]:
    """Returns: what of it was not taken. Raises: OSError, ValueError if it is damaged."""
    state = folder.read_status()["state"]
    if state not in ("done", "failed"):
        say(f"{printable(str(folder.path))} is {state}, and is left: it is sent when it is done")
        return []
    entries = read_entries(folder)
    run = TrackedRun(folder, folder.read_config(), first_epoch=0)
    tracked = Tracking(Accelerator(cpu=True), names, run)
    tracked.catch_up(entries)
    tracked.close(state)
    return [f"{folder.path}: {sender.name}: {sender.failure}" for sender in tracked.senders if sender.failure]
