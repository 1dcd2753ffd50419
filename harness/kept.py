"""What a process that trains one run after another keeps between them, and what it says anew for each of them.

Nothing is kept unless `keep_between_runs` was called, as a worker does: a process of one run needs nothing twice. What
is kept is shared by the runs, and nobody changes it.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_keeping = False
_said: set[Hashable] = set()


def keep_between_runs() -> None:
    """From here on this process keeps what it makes by way of `Kept`."""
    global _keeping  # noqa: PLW0603 (a process has one life)
    _keeping = True


def begin_run() -> None:
    """What is said once in a run is to be said again."""
    _said.clear()


def is_first_time(what: Hashable) -> bool:
    """Whether this is the first time in this run that something is to be said."""
    first = what not in _said
    _said.add(what)
    return first


def stamp(path: Path) -> tuple[Hashable, ...]:
    """What tells a file from another that has taken its place. Raises: OSError if there is none."""
    found = path.stat()
    return str(path.absolute()), found.st_mtime_ns, found.st_size, found.st_ino


class Kept(Generic[T]):
    """The last `most` things of a kind, by all that they were made of."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._things: OrderedDict[Hashable, tuple[T, list[logging.LogRecord]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under this key, or is made now. What was logged in the making is logged again for each run.

        Raises: whatever `make` raises, with nothing kept.
        """
        if not _keeping:
            return make()
        if key in self._things:
            thing, logged = self._things[key]
            for record in logged:
                logging.getLogger(record.name).handle(record)
        else:
            thing, logged = _listen(make)
            self._things[key] = thing, logged
        self._things.move_to_end(key)
        while len(self._things) > self.most:
            self._things.popitem(last=False)
        return thing


def _listen(make: Callable[[], T]) -> tuple[T, list[logging.LogRecord]]:
    """What it makes, and what it logs meanwhile, which is logged all the same."""
    logged: list[logging.LogRecord] = []
    build = logging.getLogRecordFactory()

    def note(*arguments: Any, **named: Any) -> logging.LogRecord:
        logged.append(record := build(*arguments, **named))
        return record

    logging.setLogRecordFactory(note)
    try:
        return make(), logged
    finally:
        logging.setLogRecordFactory(build)
