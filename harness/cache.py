"""What is computed once per machine: prepared data, weights, reference statistics.

An entry is one safetensors file whose metadata carries the SHA-256 of its tensors. It is written to a temporary file
and renamed under a lock, so that processes that want the same entry at once compute it once and never read half of it.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.errors import InputError

logger = logging.getLogger(__name__)
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


def save_entry(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one entry atomically, its checksum in the metadata. The caller holds the entry's lock.

    Raises: InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".writing-{path.name}-"
        for left_by_a_kill in path.parent.glob(f"{prefix}*"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of one entry: an flock, which the system releases when its process dies.

    Raises: InputError if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error}; set AAEBENCH_CACHE to a folder that can") from error
    try:
        yield
    finally:
        lock.release()


def cached(path: Path, compute: Callable[[], Entry]) -> Entry:
    """The entry at `path`, computed and stored first if it is missing or damaged.

    Raises: InputError if the folder cannot be written to; whatever `compute` raises, with nothing written.
    """
    with suppress(OSError, ValueError, SafetensorError):
        return _read_entry(path)
    with locked(path):
        if (entry := load_entry(path)) is None:
            save_entry(path, *compute())
            entry = load_entry(path)
    if entry is None:
        raise InputError(f"{path} was written and reads back damaged; check the disk")
    return entry
