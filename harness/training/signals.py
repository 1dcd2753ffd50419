"""Signals that ask a run to stop: noted when they come, acted on where everything can be saved."""

import signal
import time
from types import FrameType, TracebackType

from harness.errors import Interrupted

# Launchers pass on what the whole process group has received already, and so does SLURM: that is one request, not two.
SAME_REQUEST_SECONDS = 2


class NotedSignals:
    """While entered, SIGINT, SIGTERM and SIGUSR2 are noted.

    A second SIGINT or SIGTERM, seconds later, acts at once. SLURM's warning, SIGUSR2, comes from several sides and
    never does. Where one process of several ends early, its launcher sends SIGTERM to the others: they go on noting it
    after they have left with an error, so that each can say why.
    """

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self.first: int | None = None
        self.asked_at: float | None = None

    def __bool__(self) -> bool:
        return self.first is not None

    def interruption(self) -> Interrupted:
        """The error to end with. SIGTERM, if only another process was signalled."""
        return Interrupted(self.first or signal.SIGTERM)

    def note(self, number: int, _: FrameType | None) -> None:
        self.first = self.first or number
        if number == signal.SIGUSR2:
            return
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        elif time.monotonic() - self.asked_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def __enter__(self) -> "NotedSignals":
        self.before = {n: signal.signal(n, self.note) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or self.num_processes == 1:
            for number, handler in self.before.items():
                signal.signal(number, handler)
