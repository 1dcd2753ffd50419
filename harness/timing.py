"""Where the time of a run goes: parts that are measured where they happen, under names that a trace shows too."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.profiler import record_function

# One clock at a time, as all that happens in a process is of one run: what is measured needs not be handed a clock.
_current: ContextVar["Clock | None"] = ContextVar("clock", default=None)


class Clock:
    """Seconds by part, on a GPU those of its own work: nothing waits for the device until the clock is read.

    Of a part within another only the outer one counts, so that parts add up.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._measuring = False

    @contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        if self._measuring:
            yield
            return
        self._measuring = True
        try:
            if self.on_gpu:
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                first.record()
                yield
                last.record()
                self._events.append((part, first, last))
            else:
                started = time.perf_counter()
                yield
                self.add(part, time.perf_counter() - started)
        finally:
            self._measuring = False

    def add(self, part: str, seconds: float) -> None:
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def read(self) -> dict[str, float]:
        """`time/<part>_seconds` since the clock was read last; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for part, first, last in self._events:
            self.add(part, first.elapsed_time(last) / 1000)
        read = {f"time/{part}_seconds": seconds for part, seconds in self._seconds.items()}
        self._seconds, self._events = {}, []
        return read


@contextmanager
def clocking(clock: Clock) -> Iterator[Clock]:
    """What is `timed` within goes to this clock."""
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)


@contextmanager
def timed(part: str) -> Iterator[None]:
    """A part of the work, for the clock that runs, if any, and for a profile."""
    clock = _current.get()
    with record_function(part):
        if clock is None:
            yield
        else:
            with clock.measuring(part):
                yield
