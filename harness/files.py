"""Files and folders that appear whole or not at all, what a kill leaves of them, and checksums: once for everyone.

Standard library only, so that readers of run folders start at once. What is written first has a name of its own, which
no other process gives to anything: `.writing-<name>-<process>-<random>` beside its place.
"""

import glob
import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from harness.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

LEFT_SECONDS = 3600  # so old, nobody writes it any more


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses: process ids alone are alike in containers."""
    return path.with_name(f".writing-{path.name}-{os.getpid()}-{secrets.token_hex(4)}")


def remove_leftovers(folder: Path, name: str = "", older_than: float = LEFT_SECONDS) -> None:
    """Remove what killed processes left in `folder` while they wrote `name`, or anything whose name begins so.

    Args: older_than: seconds; 0 where the caller knows that nobody else writes there.
    """
    for left in folder.glob(f".writing-{glob.escape(name)}*"):
        with suppress(OSError):
            newest = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
            if time.time() - newest >= older_than:
                _remove(left)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for whom the folder in which they are is. Raises: OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        share(folder)


def share(path: Path) -> None:
    """What lies in a folder that belongs to a group (setgid) is the group's to read and write as the folder is.

    Elsewhere the process's umask decides.
    """
    folder = path.parent.stat().st_mode
    if folder & stat.S_ISGID:
        granted = folder & (0o070 if path.is_dir() else 0o060)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode | granted != mode:  # else whoever made it has done so, and none but its owner may
            path.chmod(mode | granted)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path beside `path`; the file there takes its place when the body is done. After an error it is removed.

    A full disk has other uses for the space.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        share(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `folder` when the body is done; after an error nothing is left of it.

    What is there is renamed aside first, so for an instant there is neither; the caller makes sure that it may go.
    Raises: InputError if it cannot be written, as on a full disk.
    """
    final = folder.resolve()
    new = temporary_path(final)
    old = new.with_name(f"{new.name}-old")
    lacking: list[Path] = []
    try:
        lacking += [parent for parent in final.parents if not parent.exists()]
        make_folder(final.parent)
        remove_leftovers(final.parent, f"{final.name}-")
        make_folder(new)
        yield new
        if final.exists():
            final.rename(old)
        try:
            new.rename(final)
        except BaseException:
            if old.exists():
                old.rename(final)
            raise
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error}; free some space, or choose another with --out") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):  # the first that is not empty: something was written there
            for parent in lacking:
                parent.rmdir()


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """A file to read and to append to, made if it is missing; what was written is on the disk in the end.

    Raises: OSError.
    """
    with path.open("ab+") as file:
        share(path)
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, and put it on the disk. Raises: OSError."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        flush_to_disk(temporary)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically. Raises: OSError; ValueError for a number that is not finite."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file and put it on the disk; whoever may read its folder may read it. Raises: OSError."""
    from safetensors import SafetensorError  # noqa: PLC0415 (for writers only)
    from safetensors.torch import save_file  # noqa: PLC0415

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    except SafetensorError as error:  # of a full disk, among others
        raise OSError(str(error)) from error
    path.chmod(path.parent.stat().st_mode & 0o644)  # safetensors writes for the owner alone
    share(path)
    flush_to_disk(path)


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
