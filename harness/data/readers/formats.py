"""Readers of the formats in which image data sets are published: idx, and folders and archives of images."""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from gzip import GzipFile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.config import Crop
from harness.data.factors import Factors
from harness.data.pixels import decode_image, fit
from harness.data.readers.labels import Labelled, label_files
from harness.data.source import Source, choose_split, list_some, require_readable_size, require_room, shown
from harness.errors import InputError
from harness.protocol import Split
from harness.terminal import Bar

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif"}
IMAGE_SUFFIXES |= {".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
READ_AT_ONCE = 16  # images that a thread reads before it takes more: handing over single ones costs a tenth of the time
IDX_IMAGES = "*images*idx3-ubyte*"


@dataclass(frozen=True)
class Contents:
    """Of a source: images (N, C, H, W) uint8, and where it has them labels (N,) int64, the classes' names, and factors.

    `passed_over` names the files that are no images, and of which nothing is used.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    passed_over: Sequence[str] = ()
    factors: Factors | None = None


def read_idx_pair(source: Source, prefix: str) -> Contents:
    """MNIST's format: `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte`, either gzipped or not."""
    images = source.find(f"{prefix}-images*idx3-ubyte*")
    return _read_idx_files(source, images, source.find(f"{prefix}-labels*idx1-ubyte*"))


def read_own_idx(source: Source, split: Split) -> Contents:
    """The idx files of a split of a user's own, whatever they are called before `images-idx3-ubyte`; labels if any.

    Raises: InputError if there is more than one that may be meant.
    """
    found = [source.named] if source.named else source.find_all(IDX_IMAGES)
    found = choose_split(found, split == "test")
    if len(found) != 1:
        raise InputError(f"{shown(source.path)} holds {list_some(found)}; name the one that is meant: --from FILE")
    (images,) = found
    labels = source.find_all(PurePosixPath(images).name.replace("images", "labels").replace("idx3", "idx1"))
    return _read_idx_files(source, images, labels[0] if labels else None)


def _read_idx_files(source: Source, images_name: str, labels_name: str | None) -> Contents:
    images = _read_idx(source, images_name, dimensions=3)
    labels = None if labels_name is None else _read_idx(source, labels_name, dimensions=1)
    if labels is not None and len(images) != len(labels):
        raise InputError(
            f"{shown(source.path)}: {len(images)} images but {len(labels)} labels; they are of different sets"
        )
    return Contents(images.unsqueeze(1), None if labels is None else labels.long())


def _read_idx(source: Source, name: str, dimensions: int) -> Tensor:
    where = f"{shown(name)} in {shown(source.path)}"
    content = read_content(source, name)
    magic = bytes([0, 0, 8, dimensions])  # two zeros, unsigned bytes, the number of dimensions
    if content[:4] != magic:
        raise InputError(f"{where} starts with {content[:4].hex()}, not with idx's {magic.hex()}")
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise InputError(f"{where} is truncated: {len(content)} bytes for images of shape {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def read_content(source: Source, name: str) -> bytes:
    """A file's bytes, unpacked if it is a .gz. Raises: InputError if it is damaged, or too large for the memory."""
    where = f"{shown(name)} in {shown(source.path)}"
    try:
        content = source.read(name)
        if not name.endswith(".gz"):
            return content
        unpacked = bytearray()
        with GzipFile(fileobj=io.BytesIO(content)) as stream:
            while part := stream.read(2**20):
                unpacked += part
                require_readable_size(len(unpacked), f"{name} unpacked", source.path)
        return bytes(unpacked)
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted
        raise InputError(f"{where} is truncated or damaged: {error}") from error


class Batch(NamedTuple):
    """Image files that are read one by one: their names, and the bytes of each by its number."""

    names: Sequence[str]
    read: Callable[[int], bytes]


def read_image_files(source: Source, image_size: int, crop: Crop, *, with_labels: bool = False) -> Contents:
    """Every image file, sorted by name, as a viewer shows it, brought to S x S as it is read.

    Grey ((N, 1, S, S)) if all of them are grey.

    Args: with_labels: as harness.data.readers.labels finds them, and then only of the images that are labelled there.
    Raises: InputError naming the files that cannot be read, or if there are none.
    """
    names, passed_over = find_images(source)
    labelled = label_files(source, names) if with_labels else Labelled(names)
    used = labelled.names

    def read(index: int) -> bytes:
        return source.read(used[index])

    images = decode_images(source.path, len(used), [Batch(used, read)], image_size, crop)
    passed_over = sorted({*passed_over}.difference(labelled.told_by) | labelled.left_out)
    return Contents(images, labelled.labels, labelled.classes, passed_over)


def decode_images(path: Path, n: int, batches: Iterable[Batch], image_size: int, crop: Crop) -> Tensor:
    """The images of all batches, n in sum, as a viewer shows them, at S x S: (n, 3, S, S), or (n, 1, S, S) if all are
    grey. A batch is let go before the next one is asked for.

    Raises: InputError naming those that cannot be read.
    """
    require_room(n * 3 * image_size**2, f"{shown(path)} at {image_size} px")
    images = torch.empty(n, 3, image_size, image_size, dtype=torch.uint8)
    unreadable = []

    def read_one(at: int, batch: Batch, index: int) -> None:
        try:
            decoded = decode_image(batch.read(index), as_shown=True)
            images[at + index] = fit(decoded[None], image_size, crop)[0]
        except Exception as error:  # PIL raises many kinds for damaged files
            unreadable.append(f"{shown(batch.names[index])} ({error})")

    def read_some(at: int, batch: Batch, start: int) -> int:
        stop = min(start + READ_AT_ONCE, len(batch.names))
        for index in range(start, stop):
            read_one(at, batch, index)
        return stop - start

    def read_all(pool: ThreadPoolExecutor) -> Iterator[int]:
        at = 0
        for batch in batches:
            yield from pool.map(partial(read_some, at, batch), range(0, len(batch.names), READ_AT_ONCE))
            at += len(batch.names)

    Image.init()  # whose plugins threads would load at once
    with ThreadPoolExecutor() as pool, Bar("images") as bar:
        task = bar.add_task("reading images", total=n)
        for read in read_all(pool):
            bar.advance(task, read)
    if unreadable:
        raise unreadable_images(path, unreadable, n)
    grey = all(torch.equal(c[:, :1].expand_as(c), c) for c in images.split(4096))
    return images[:, :1].clone() if grey else images


def find_images(source: Source) -> tuple[list[str], list[str]]:
    """The names of the images, and of what is passed over, sorted. Raises: InputError if there are no images."""
    Image.init()  # whose plugins threads would load at once
    names = [name for name in source.names if is_image(PurePosixPath(name))]
    if not names:
        raise InputError(f"{shown(source.path)} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    images = set(names)
    return names, sorted([*source.passed_over, *(name for name in source.names if name not in images)])


def describe_use(path: Path, n: int, passed_over: Sequence[str]) -> str:
    """One line: how many images of a source are used, and what in it is none."""
    return f"{shown(path)}: used {n:,}, passed over {len(passed_over):,}: {list_some(passed_over)}"


def unreadable_images(path: Path, unreadable: list[str], n: int) -> InputError:
    more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
    return InputError(
        f"{len(unreadable)} of {n} images in {shown(path)} cannot be read: "
        f"{'; '.join(sorted(unreadable)[:5])}{more}; repair or remove them"
    )


def is_image(name: PurePosixPath) -> bool:
    """By its suffix; what is hidden is none."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return name.suffix.lower() in IMAGE_SUFFIXES and not hidden
