"""One launch at a time trains in a run folder. It starts without torch, so that whoever starts runs can ask first."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import InputError
from harness.files import share
from harness.record import RunFolder


@contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder, by a lock that the system releases when the process dies.

    Raises: InputError if another process is training it.
    """
    try:
        lock = lock_of(folder.path)
        lock.acquire(timeout=1, poll_interval=0.02)  # `is_owned` holds it for an instant
    except Timeout as error:
        raise InputError(f"{folder.path} is being trained by another process") from error
    except OSError as error:
        raise InputError(f"cannot write the run folder {folder.path}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def lock_of(folder: Path, name: str = ".lock") -> FileLock:
    """A lock in a folder, for whom the folder is. Raises: OSError if it cannot be made."""
    file = folder / name
    with suppress(FileExistsError):
        file.touch(exist_ok=False)
        share(file)
    return FileLock(file)


def is_owned(folder: RunFolder) -> bool:
    """Whether a process, on any machine whose file system shares locks, is training in the folder."""
    try:
        with (folder.path / ".lock").open() as file:
            # Shared: two that ask at once are not in each other's way.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
