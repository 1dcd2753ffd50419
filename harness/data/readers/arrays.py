"""The arrays of an npz file, by name, read where they lie: pages of the file that all processes share."""

import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.data.source import CHUNK, exists, shown
from harness.errors import InputError


@dataclass(frozen=True)
class NpzArray:
    """One array of an npz file, known by its header."""

    path: Path
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    by_columns: bool
    header_bytes: int

    def __str__(self) -> str:
        return f"{shown(self.info.filename.removesuffix('.npy'))} {self.dtype} {self.shape}"

    def open(self) -> np.ndarray:
        """The array, mapped into memory; a compressed one is unpacked to a file that goes with it.

        Raises: InputError if it is not all there, or the disk has no room to unpack it.
        """
        n_bytes = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if self.header_bytes + n_bytes != self.info.file_size:
            raise InputError(f"{shown(self.path)}: {self} has {self.info.file_size - self.header_bytes:,} bytes")
        if n_bytes == 0:
            return np.empty(self.shape, self.dtype)
        if self.info.compress_type == zipfile.ZIP_STORED:
            source, start = self.path, self._find_start()
        else:
            source, start = self._unpack(), 0
        order = "F" if self.by_columns else "C"
        return np.memmap(source, self.dtype, "c", start + self.header_bytes, self.shape, order)

    def verify(self) -> None:
        """Compare the whole content with its checksum. Raises: InputError if they differ."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.info) as stream:
                while stream.read(CHUNK):
                    pass
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{shown(self.path)} is damaged: {error}") from error

    def _find_start(self) -> int:
        """Where the content begins: behind a header of 30 bytes, which tells the lengths of a name and of extras."""
        with self.path.open("rb") as file:
            file.seek(self.info.header_offset)
            header = file.read(30)
        return (
            self.info.header_offset
            + 30
            + int.from_bytes(header[26:28], "little")
            + int.from_bytes(header[28:30], "little")
        )

    def _unpack(self) -> IO[bytes]:
        if self.info.file_size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
            raise InputError(
                f"{shown(self.path)}: {self} unpacked fills half of what is free in {tempfile.gettempdir()}"
            )
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (numpy maps it)
        with zipfile.ZipFile(self.path) as archive, archive.open(self.info) as stream:
            shutil.copyfileobj(stream, unpacked, CHUNK)
        unpacked.flush()
        return unpacked


def list_arrays(path: Path) -> dict[str, NpzArray]:
    """By name. Raises: InputError if it is no whole npz file of arrays of numbers."""
    found: dict[str, NpzArray] = {}
    if not exists(path) or not path.is_file():
        raise InputError(f"there is no file {shown(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2_0
                    shape, by_columns, dtype = read(stream)
                    header_bytes = stream.tell()
                name = info.filename.removesuffix(".npy")
                if name in found:
                    raise InputError(f"{shown(path)} holds {shown(name)} twice; save it anew")
                if not dtype.hasobject:
                    found[name] = NpzArray(path, info, shape, dtype, by_columns, header_bytes)
    except InputError:
        raise
    except Exception as error:  # numpy raises many kinds for damaged files
        raise InputError(f"{shown(path)} is no npz file of images: {error}") from error
    if not found:
        raise InputError(f"{shown(path)} is no npz file of images: it holds no array of numbers")
    return found


def _read_header_2_0(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    return np.lib.format.read_array_header_2_0(stream)
