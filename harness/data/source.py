"""The files that a user names: those of a folder, a zip or a tar archive, by name, read when they are asked for.

An archive is whole or refused, and what no reader would read is known by name. A tar is read where it lies: of its
files a process keeps names and places, so that several processes share one copy of the content.
"""

import bz2
import gzip
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any

import psutil

from harness.errors import InputError

LARGEST_FILE = 2**31  # bytes that one file may bring into memory
SMALL_FILE = 2**24  # bytes for which nobody asks how much memory is free, as asking takes longer than reading
COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
HDF5 = ("*.h5", "*.hdf5")
CHUNK = 2**20
LONGEST_LINK = 4096  # bytes of a path
# What readers of archives raise for damaged ones.
DAMAGES = (OSError, EOFError, ValueError, OverflowError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError)


class MissingFileError(InputError):
    """A source lacks a file that a format consists of."""


@dataclass(frozen=True)
class Source:
    """The files of a folder, a zip or a tar archive: their names, sorted, and the bytes of each.

    A single other file stands for its folder, and is `named`. `passed_over`: what is no file that could be read.
    """

    path: Path
    names: Sequence[str]
    read: Callable[[str], bytes]
    passed_over: Sequence[str] = ()
    named: str = ""

    def find(self, pattern: str) -> str:
        """The first file whose name (without folders) fits the pattern. Raises: MissingFileError if none does."""
        found = self.find_all(pattern)
        if not found:
            has = ", ".join(map(shown, self.names[:5])) or "no files"
            raise MissingFileError(f"{self.path} has no file {pattern}; it has {has}")
        return found[0]

    def find_all(self, pattern: str) -> list[str]:
        """The files whose names (without folders) fit the pattern."""
        return [name for name in self.names if fnmatch(PurePosixPath(name).name, pattern)]


def choose_split(names: Sequence[str], test: bool) -> list[str]:
    """The files whose names say that they are of the training or of the test split; all of them where none does."""
    words = ("test", "t10k") if test else ("train",)
    return [name for name in names if any(word in PurePosixPath(name).name for word in words)] or [*names]


def join_tars(source: Source, names: Sequence[str]) -> Source:
    """The files of several tars of a folder, as WebDataset has its shards, each in a folder of its tar's name."""
    tars = {name: open_source(source.path / name) for name in names}

    def read(name: str) -> bytes:
        tar, _, file = name.partition(".tar/")
        return tars[f"{tar}.tar"].read(file)

    files = [f"{tar}/{name}" for tar, opened in tars.items() for name in opened.names]
    passed_over = [f"{tar}/{name}" for tar, opened in tars.items() for name in opened.passed_over]
    return Source(source.path, sorted(files), read, sorted(passed_over))


EMBEDDED = Source(Path("embedded"), [], lambda name: b"")


def shown(name: object) -> str:
    """A file's name for a person: what cannot be printed, or would steer a terminal, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def list_some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def require_room(n_bytes: int, what: str) -> None:
    """Raises: InputError if so many bytes do not fit in this machine's free memory."""
    free = psutil.virtual_memory().available
    if n_bytes > free:
        raise InputError(f"{what} takes {n_bytes / 2**30:.1f} GiB of memory; {free / 2**30:.1f} GiB are free")


def require_readable_size(n_bytes: int, name: str, path: Path) -> None:
    """Raises: InputError for a file of a source that is too large to be read into memory at once."""
    if n_bytes > LARGEST_FILE:
        raise InputError(
            f"{shown(name)} in {shown(path)} has {n_bytes:,} bytes; a single file may have {LARGEST_FILE:,}"
        )
    if n_bytes > SMALL_FILE:
        require_room(n_bytes, f"{shown(name)} in {shown(path)}")


def exists(path: Path) -> bool:
    """Whether there is anything. What cannot be a name, as it is too long, names nothing."""
    with suppress(OSError, ValueError):
        return path.exists()
    return False


def open_source(path: Path) -> Source:
    """Raises: InputError if there is nothing at `path`, it cannot be read, or an archive is damaged."""
    if not exists(path):
        raise InputError(f"there is no file or folder {shown(path)}")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{shown(path)} is neither a file nor a folder")
    try:
        if path.is_file() and tarfile.is_tarfile(path):  # first: a tar may end with a zip among its files
            return _open_tar(path)
        if path.is_file() and zipfile.is_zipfile(path):
            return _open_zip(path)
    except DAMAGES as error:
        raise InputError(f"{shown(path)} is a damaged archive: {error}") from error
    known = ("*-ubyte*", "data_batch*", *HDF5, "*.parquet", "*.arrow", "*.npy", "*.mdb")
    if path.is_file() and not any(fnmatch(path.name, pattern) for pattern in known):
        raise InputError(
            f"{shown(path)} is no folder, no whole zip or tar archive, no idx file, no CIFAR-10 batch, and no "
            ".h5, .parquet, .arrow, .npz, .npy or .mdb file"
        )
    folder = path if path.is_dir() else path.parent
    try:
        names, passed_over = _list_folder(folder)
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be read: {error}") from error
    named = "" if folder == path else path.name
    return Source(folder, names, lambda name: _read_file(folder / name), passed_over, named)


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        require_readable_size(os.fstat(file.fileno()).st_size, path.name, path.parent)
        return file.read()


def _list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the files at any depth, and of what is neither file nor folder. Raises: OSError.

    Links to folders are followed, after the folders themselves, and no folder is read twice: so links may form loops.
    A link that leads nowhere counts as a file, which whoever reads it finds damaged.
    """
    names: list[str] = []
    passed_over: list[str] = []
    visited: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    linked: list[str] = []
    while folders or linked:
        at = folders.pop() if folders else linked.pop()
        status = (folder / at).stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder / at) as entries:
            for entry in entries:
                name = posixpath.join(at, entry.name)
                if entry.is_dir():
                    (linked if entry.is_symlink() else folders).append(name)
                elif entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists()):
                    names.append(name)
                else:
                    passed_over.append(name)
    return sorted(names), sorted(passed_over)


def _open_zip(path: Path) -> Source:
    archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = sorted(info.filename for info in infos)
    _refuse_repeated(path, names)
    links = {info.filename: info for info in infos if stat.S_ISLNK(info.external_attr >> 16)}
    short = {name: info for name, info in links.items() if info.file_size < LONGEST_LINK}
    targets = {name: _target(name, archive.read(info).decode()) for name, info in short.items()}

    def read(name: str) -> bytes:
        info = archive.getinfo(_follow(name, targets))
        require_readable_size(info.file_size, name, path)
        return archive.read(info)

    return Source(path, names, read)


def _open_tar(path: Path) -> Source:
    """Its files' places. A compressed one is unpacked to a temporary file, as it cannot be read from its middle."""
    file = _open_plain(path)
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    names: list[str] = []
    offsets, sizes = array("q"), array("q")
    targets: dict[str, str] = {}
    passed_over: list[str] = []
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            setattr(tar, "members", [])  # noqa: B010 (its list would hold a kilobyte for each; the stubs lack it)
            name = posixpath.normpath(member.name)
            if member.issparse() or member.size < 0 or member.offset_data + member.size > length:
                raise tarfile.TarError(f"{shown(name)} is sparse, or not all there")
            if member.isreg():
                names.append(name)
                offsets.append(member.offset_data)
                sizes.append(member.size)
            elif member.issym():
                targets[name] = _target(name, member.linkname)
            elif member.islnk():
                targets[name] = posixpath.normpath(member.linkname)
            elif not member.isdir():
                passed_over.append(name)
        _require_end(file, tar.offset)
    order = sorted(range(len(names)), key=names.__getitem__)
    files = [names[index] for index in order]
    offsets, sizes = (array("q", [numbers[index] for index in order]) for numbers in (offsets, sizes))
    folders = {posixpath.dirname(name) for name in files} if targets else set()
    links = [name for name in targets if _follow(name, targets) not in folders]
    passed_over += [f"{name} (a link to a folder)" for name in targets if name not in links]
    everything = sorted([*files, *links])
    _refuse_repeated(path, everything)

    def read(name: str) -> bytes:
        target = _follow(name, targets)
        index = bisect_left(files, target)
        if index == len(files) or files[index] != target:
            raise FileNotFoundError(f"it is a link to {shown(target)}, which is not there")
        require_readable_size(sizes[index], name, path)
        return os.pread(file.fileno(), sizes[index], offsets[index])

    return Source(path, everything, read, sorted(passed_over))


def _open_plain(path: Path) -> IO[bytes]:
    """The tar itself; of a compressed one its content, in a file that goes when it is closed.

    Unpacked to its last byte, so that its checksums are compared. Raises: InputError if the disk has no room for it.
    """
    with path.open("rb") as file:
        start = file.read(6)
    decompress = next((open_it for magic, open_it in COMPRESSED.items() if start.startswith(magic)), None)
    if decompress is None:
        return path.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (kept as long as the source is)
    room = shutil.disk_usage(tempfile.gettempdir()).free // 2
    with decompress(path) as stream:
        while chunk := stream.read(CHUNK):
            room -= len(chunk)
            if room < 0:
                raise InputError(f"{shown(path)} unpacked fills half of what is free in {tempfile.gettempdir()}")
            unpacked.write(chunk)
    unpacked.flush()
    return unpacked


def _require_end(file: IO[bytes], offset: int) -> None:
    """Raises: TarError unless a tar ends at `offset`, with a block of zeros and nothing behind it."""
    file.seek(offset)
    if file.read(512) != bytes(512):
        raise tarfile.TarError(f"at byte {offset:,} is neither a file's header nor the archive's end")
    while chunk := file.read(CHUNK):
        if chunk.count(0) != len(chunk):
            raise tarfile.TarError(f"there is more behind its end, which is at byte {offset:,}")


def _target(name: str, link: str) -> str:
    """The name in the archive that a symbolic link leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link))


def _follow(name: str, targets: dict[str, str]) -> str:
    """Where a chain of links ends; somewhere in it, if it is a loop."""
    for _ in range(len(targets)):
        if name not in targets:
            break
        name = targets[name]
    return name


def _refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Raises: InputError if sorted names hold one twice: which of the two is meant, nobody knows."""
    repeated = next((a for a, b in pairwise(names) if a == b), None)
    if repeated is not None:
        raise InputError(f"{shown(path)} holds {shown(repeated)} twice; pack it anew")
