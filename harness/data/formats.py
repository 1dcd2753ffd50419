"""Readers of the formats in which image data sets are published: idx, CIFAR's batches, folders and archives of images.

Every reader takes a Source and returns images (N, C, H, W) uint8 and, where the format has them, labels (N,) int64.
"""

import gzip
import io
import math
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn.functional import interpolate

from harness.errors import InputError
from harness.terminal import console

Labelled = tuple[Tensor, Tensor | None]
ARRAY_PARTS = {
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
GREY_MODES = ("1", "L", "LA")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class MissingFileError(InputError):
    """A source lacks a file that a format consists of."""


@dataclass(frozen=True)
class Source:
    """The files of a folder, a zip or a tar archive, by name. A single other file stands for its folder."""

    path: Path
    names: list[str]
    read: Callable[[str], bytes]

    def find(self, pattern: str) -> str:
        """The first file whose name (without folders) fits the pattern. Raises: MissingFileError if none does."""
        for name in self.names:
            if fnmatch(PurePosixPath(name).name, pattern):
                return name
        raise MissingFileError(f"{self.path} has no file {pattern}; it has {', '.join(self.names[:5]) or 'no files'}")


EMBEDDED = Source(Path("embedded"), [], lambda name: b"")


def open_source(path: Path) -> Source:
    """Raises: InputError if there is nothing at `path` or an archive is damaged."""
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    try:
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
            return Source(path, names, archive.read)
        if path.is_file() and tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:  # its members are read in order: a tar has no index
                members = {m.name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m))}
            return Source(path, sorted(members), members.__getitem__)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is a damaged archive: {error}") from error
    if path.is_file() and not fnmatch(path.name, "*-ubyte*") and not path.name.startswith("data_batch"):
        raise InputError(f"{path} is no folder, no whole zip or tar archive, no idx file and no CIFAR-10 batch")
    folder = path if path.is_dir() else path.parent
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return Source(folder, names, lambda name: (folder / name).read_bytes())


def read_idx_pair(source: Source, prefix: str) -> Labelled:
    """MNIST's format: `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte`, either gzipped or not."""
    images = _read_idx(source, f"{prefix}-images*idx3-ubyte*", dimensions=3)
    labels = _read_idx(source, f"{prefix}-labels*idx1-ubyte*", dimensions=1)
    if len(images) != len(labels):
        raise InputError(f"{source.path}: {len(images)} images but {len(labels)} labels; they are of different sets")
    return images.unsqueeze(1), labels.long()


def _read_idx(source: Source, pattern: str, dimensions: int) -> Tensor:
    name = source.find(pattern)
    content = _read(source, name)
    magic = bytes([0, 0, 8, dimensions])  # two zeros, unsigned bytes, the number of dimensions
    if content[:4] != magic:
        raise InputError(f"{name} in {source.path} starts with {content[:4].hex()}, not with idx's {magic.hex()}")
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise InputError(f"{name} in {source.path} is truncated: {len(content)} bytes for images of shape {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def read_cifar10(source: Source, patterns: list[str]) -> Labelled:
    """Batches of CIFAR-10, in the python version (pickles, of which no code runs) or the binary one."""
    batches = [_read_cifar10_batch(source, pattern) for pattern in patterns]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels.astype(np.int64))


def _read_cifar10_batch(source: Source, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    name = source.find(pattern)
    content = _read(source, name)
    if name.endswith(".bin"):
        if not content or len(content) % 3073:
            raise InputError(f"{name} in {source.path} is truncated: {len(content)} bytes in records of 3073")
        records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
        return records[:, 1:], records[:, 0]
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"], np.uint8), np.asarray(batch[b"labels"], np.uint8)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{name} in {source.path} is no CIFAR-10 batch: {error}") from error
    if pixels.shape != (len(labels), 3072):
        raise InputError(f"{name} in {source.path} holds data {pixels.shape} for {len(labels)} labels")
    return pixels, labels


class _ArrayUnpickler(pickle.Unpickler):
    """Loads arrays of numbers and nothing else: a pickle from somewhere can otherwise run any code."""

    def find_class(self, module_name: str, global_name: str) -> object:
        module_name = module_name.replace("numpy.core", "numpy._core")  # numpy's name for it until version 2
        if (module_name, global_name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")
        return super().find_class(module_name, global_name)


def _read(source: Source, name: str) -> bytes:
    try:
        content = source.read(name)
        return gzip.decompress(content) if name.endswith(".gz") else content
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
        raise InputError(f"{name} in {source.path} is truncated or damaged: {error}") from error


def read_image_files(source: Source, image_size: int) -> Labelled:
    """Every image file, sorted by name, resized to S x S as it is read; grey ((N, 1, S, S)) if all of them are grey.

    Raises: InputError naming the files that cannot be read, or if there are none.
    """
    names = find_images(source)
    images = torch.empty(len(names), 3, image_size, image_size, dtype=torch.uint8)
    unreadable = []

    def read_one(index: int) -> None:
        try:
            images[index] = resize(decode_image(source.read(names[index]))[None], image_size)[0]
        except Exception as error:  # PIL raises many kinds for damaged files
            unreadable.append(f"{names[index]} ({error})")

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(read_one, range(len(names))), "reading images", len(names), console=console):
            pass
    if unreadable:
        raise unreadable_images(source.path, unreadable, len(names))
    grey = all(torch.equal(c[:, :1].expand_as(c), c) for c in images.split(4096))
    return (images[:, :1].clone() if grey else images), None


def find_images(source: Source) -> list[str]:
    """The names of the images, sorted. Raises: InputError if there are none."""
    names = [name for name in source.names if _is_image(PurePosixPath(name))]
    if not names:
        raise InputError(f"{source.path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return names


def unreadable_images(path: Path, unreadable: list[str], n: int) -> InputError:
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return InputError(
        f"{len(unreadable)} of {n} images in {path} cannot be read: {'; '.join(sorted(unreadable)[:5])}{more}; "
        "repair or remove them"
    )


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in IMAGE_SUFFIXES and not hidden


def decode_image(content: bytes) -> Tensor:
    """An image file's pixels: (C, H, W) uint8, one channel for a grey one.

    16 bits become 8, and an alpha channel is dropped, as torchvision's loader does.
    Raises: ValueError for pixels of an unknown range; what PIL raises for damaged files.
    """
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)
        elif image.mode in ("I", "F"):
            raise ValueError(f"its pixels are of mode {image.mode}, whose range is unknown; save it with 8 or 16 bits")
        else:
            pixels = np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def is_grey(content: bytes) -> bool:
    """Whether an image file has one channel, by its header. A damaged one has not."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.mode in GREY_MODES or image.mode.startswith("I;16")
    except Exception:  # PIL raises many kinds; whoever decodes it says what is wrong
        return False


def resize(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, S, S): bilinear with antialiasing, as the published procedure does."""
    if images.shape[2:] == (image_size, image_size):
        return images
    size, on_cpu = (image_size, image_size), images.device.type == "cpu"
    # Only CPUs have a kernel for bytes; it differs from rounded floats by one level at most.
    parts = [part if on_cpu else part.to(torch.float32) for part in images.split(4096)]
    resized = torch.cat([interpolate(part, size, mode="bilinear", antialias=True) for part in parts])
    return resized if resized.dtype == images.dtype else resized.round().clamp(0, 255).to(images.dtype)
