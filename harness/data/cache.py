"""What is computed once per machine: prepared data, weights, reference statistics.

An entry is one safetensors file whose metadata carries the SHA-256 of its tensors. It is written to a temporary file
and renamed, so nobody reads half of it, and made under a lock, so that jobs that want it at once compute it once.
Where nothing can be written (another user's folder, a full disk), what is there is read, and the rest computed each
time. In a folder that belongs to a group, entries and locks are the group's.

The lock is a lease, which works on any file system, shared by any nodes: a file that its holder touches every ten
seconds. A waiting process takes it over when it has seen no touch for thirty seconds of its own clock, and at once
where the holder ran on the same machine and is gone. Should two ever hold it, both write the same content.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import SoftFileLease, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import InputError
from harness.files import make_folder, remove_leftovers, replacing_file, save_tensors, share
from harness.kept import Kept, is_first_time, stamp

logger = logging.getLogger(__name__)
LEASE_SECONDS = 30
NO_HOME = Path("/nonexistent")  # Debian's home of users without one: nothing can be kept there
Entry = tuple[dict[str, Tensor], dict[str, str]]
_shared: Kept[Entry] = Kept(8)  # a run's data, test split, reference and classifier, and another run's


def cache_folder() -> Path:
    """$AAEBENCH_CACHE, or aaebench/ in the user's cache folder."""
    named = os.environ.get("AAEBENCH_CACHE")
    if named:
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:  # neither $HOME nor an entry for the user
        home = NO_HOME
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "aaebench"


def compute_sha256(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_entry(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one entry atomically, its checksum in the metadata. The caller holds the entry's lock.

    Raises: InputError if the folder cannot be written to.
    """
    try:
        make_folder(path.parent)
        remove_leftovers(path.parent, f"{path.name}-")
        with replacing_file(path) as temporary:
            save_tensors(temporary, tensors, metadata | {"sha256": compute_sha256(tensors)})
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; free some space or set AAEBENCH_CACHE") from error


def read_metadata(path: Path) -> dict[str, str]:
    """An entry's metadata. Raises: OSError or SafetensorError if the file is missing or damaged."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def load_entry(path: Path) -> Entry | None:
    """An entry, memory-mapped and its checksum verified; None if it is missing or, with a warning, if it is damaged."""
    try:
        return read_shared(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SafetensorError) as error:
        logger.warning("%s is damaged (%s): making it anew", path, error)
        return None


def read_entry(path: Path) -> Entry:
    """An entry, memory-mapped. Raises: OSError, ValueError or SafetensorError if it is missing or damaged."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if metadata.get("sha256") != compute_sha256(tensors):
        raise ValueError("it does not match its checksum")
    return tensors, metadata


def read_shared(path: Path) -> Entry:
    """`read_entry` of what no run changes, so that the runs of a process may share it."""
    tensors, metadata = _shared.get(stamp(path), lambda: read_entry(path))
    return dict(tensors), dict(metadata)


class CannotStoreError(InputError):
    """Nothing can be written to the cache, as it is full or not ours: what is computed cannot be kept."""


def acquire_lease(path: Path, timeout: float = -1) -> SoftFileLease:
    """The lock of one entry, held. A negative timeout waits for ever, in seconds.

    Raises: Timeout; CannotStoreError if the folder cannot be written to.
    """
    try:
        make_folder(path.parent)
        if not os.access(path.parent, os.W_OK | os.X_OK):  # a lock that somebody left there could never be taken
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
        lease = SoftFileLease(path.with_name(f".{path.name}.lease"), lease_duration=LEASE_SECONDS)
        lease.acquire(timeout=timeout)
        share(Path(lease.lock_file))
    except Timeout:
        raise
    except OSError as error:
        raise CannotStoreError(
            f"cannot write to {path.parent}: {error}; set AAEBENCH_CACHE to a folder that can be written to"
        ) from error
    return lease


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of one entry. Raises: InputError if the folder cannot be written to."""
    lease = acquire_lease(path)
    try:
        yield
    finally:
        lease.release()


def cached(path: Path, compute: Callable[[], Entry]) -> Entry:
    """The entry at `path`, computed and stored first if it is missing or damaged.

    What cannot be stored is used all the same, with a warning. Raises: whatever `compute` raises, with nothing written.
    """
    with suppress(OSError, ValueError, SafetensorError):
        return read_shared(path)
    try:
        lease = acquire_lease(path)
    except CannotStoreError as error:
        return keep_in_memory(compute(), error)
    try:
        return load_entry(path) or store(path, compute())
    finally:
        lease.release()


def store(path: Path, entry: Entry) -> Entry:
    """Store an entry and read it back, memory-mapped; the entry itself, with a warning, where it cannot be stored."""
    try:
        save_entry(path, *entry)
        return read_shared(path)
    except (InputError, OSError, ValueError, SafetensorError) as error:
        return keep_in_memory(entry, error)


def keep_in_memory(entry: Entry, error: Exception) -> Entry:
    """An entry as it would be read, with a warning, the first time, that it is not stored."""
    _warn_once(cache_folder(), str(error))
    tensors, metadata = entry
    return tensors, metadata | {"sha256": compute_sha256(tensors)}


def _warn_once(folder: Path, error: str) -> None:
    """For all entries of a cache, and by the main process alone: the reason is the same."""
    if is_first_time(("not stored", folder)) and os.environ.get("RANK", "0") == "0":
        logger.warning("%s; going on without storing it, nor what else is computed", error)
