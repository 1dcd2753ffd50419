"""What is computed once per machine: prepared data, weights, reference statistics.

An entry is one safetensors file whose metadata carries the SHA-256 of its tensors. It is written to a temporary file
and renamed, so nobody reads half of it, and made under a lock, so that jobs that want it at once compute it once.

The lock is a lease, which works on any file system, shared by any nodes: a file that its holder touches every ten
seconds. A waiting process takes it over when it has seen no touch for thirty seconds of its own clock, and at once
where the holder ran on the same machine and is gone. Should two ever hold it, both write the same content.
"""

import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from filelock import SoftFileLease, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import InputError

if TYPE_CHECKING:
    from harness.processes import Processes  # imports accelerate, which those who read configurations need not wait for

logger = logging.getLogger(__name__)
LEASE_SECONDS = 30
POLL_SECONDS = 5
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
T = TypeVar("T")
Entry = tuple[dict[str, Tensor], dict[str, str]]


def cache_folder() -> Path:
    """$AAEBENCH_CACHE, or aaebench/ in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("AAEBENCH_CACHE") or Path(home) / "aaebench")


def compute_sha256(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what processes that were killed left while they wrote: an hour old, so that nobody writes it now."""
    for left in folder.glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def save_entry(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one entry atomically, its checksum in the metadata. The caller holds the entry's lock.

    Raises: InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".writing-{path.name}-"
        remove_leftovers(path.parent, prefix)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
            temporary = Path(folder) / path.name
            save_file(tensors, temporary, metadata | {"sha256": compute_sha256(tensors)})
            temporary.chmod(0o644)  # a cluster's users share a cache; safetensors writes for the owner alone
            temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; free some space or set AAEBENCH_CACHE") from error


def read_metadata(path: Path) -> dict[str, str]:
    """An entry's metadata. Raises: OSError or SafetensorError if the file is missing or damaged."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def load_entry(path: Path) -> Entry | None:
    """An entry, memory-mapped and its checksum verified; None if it is missing or, with a warning, if it is damaged."""
    try:
        return _read_entry(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SafetensorError) as error:
        logger.warning("%s is damaged (%s): making it anew", path, error)
        return None


def _read_entry(path: Path) -> Entry:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if metadata.get("sha256") != compute_sha256(tensors):
        raise ValueError("it does not match its checksum")
    return tensors, metadata


class CannotStoreError(InputError):
    """The disk is full, or takes no files: what is computed cannot be kept."""


def acquire_lease(path: Path, timeout: float = -1) -> SoftFileLease:
    """The lock of one entry, held. A negative timeout waits for ever, in seconds.

    Raises: Timeout; CannotStoreError where the disk takes no more; InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(path.with_name(f".{path.name}.lease"), lease_duration=LEASE_SECONDS)
        lease.acquire(timeout=timeout)
    except Timeout:
        raise
    except OSError as error:
        kind = CannotStoreError if error.errno in FULL else InputError
        raise kind(
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

    What cannot be stored, as on a full disk, is used all the same, with a warning.
    Raises: InputError if the folder cannot be written to; whatever `compute` raises, with nothing written.
    """
    with suppress(OSError, ValueError, SafetensorError):
        return _read_entry(path)
    try:
        lease = acquire_lease(path)
    except CannotStoreError as error:
        logger.warning("%s; going on without storing it", error)
        return compute()
    try:
        return load_entry(path) or store(path, compute())
    finally:
        lease.release()


def cached_together(
    path: Path, processes: "Processes", gather: Callable[[], T], finish: Callable[[T], Entry]
) -> Entry | None:
    """`cached` for an entry that all processes gather together and the main one finishes.

    While another job is at it, the processes look again every few seconds, so that no collective times out.
    Returns: the entry on the main process, which alone reads it; None on the others.
    """
    found: Entry | None = None
    lease: SoftFileLease | None = None
    looks = 0

    def look() -> Literal["found", "ours", "wait"]:
        nonlocal found, lease, looks
        with suppress(OSError, ValueError, SafetensorError):
            found = _read_entry(path)
            return "found"
        looks += 1
        try:
            lease = acquire_lease(path, timeout=POLL_SECONDS)
        except Timeout:
            if looks == 1:
                logger.warning("another job computes %s; waiting for it", path)
            return "wait"
        except CannotStoreError as error:
            logger.warning("%s; going on without storing it", error)
            return "ours"
        found = load_entry(path)  # another job may just have made it
        return "ours" if found is None else "found"

    def make() -> None:
        nonlocal found
        entry = finish(gathered)
        found = entry if lease is None else store(path, entry)

    try:
        while (state := processes.on_main(look)) == "wait":
            pass
        if state == "ours":
            gathered = gather()
            processes.on_main(make)
    finally:
        if lease is not None:
            lease.release()
    return found


def store(path: Path, entry: Entry) -> Entry:
    """Store an entry and read it back, memory-mapped; the entry itself, with a warning, where it cannot be stored."""
    try:
        save_entry(path, *entry)
        return _read_entry(path)
    except (InputError, OSError, ValueError, SafetensorError) as error:
        logger.warning("%s; going on without storing it", error)
        return entry
