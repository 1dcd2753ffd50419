"""Anyone's images as numbered images: folders, zip and tar archives of image files, npz arrays."""

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from harness.data.formats import decode_image, find_images, is_grey, open_source, unreadable_images
from harness.errors import InputError
from harness.evaluation.images import NumberedImages
from harness.files import hash_file
from harness.seeding import compute_permutation
from harness.terminal import console


@dataclass(frozen=True)
class Inspection:
    """Of images before they are scored: a checksum of their content, how many are grey, how many colour."""

    sha256: str
    grey: int
    colour: int


class UserImages(NumberedImages):
    """Images that a user names, in a fixed random order."""

    def __init__(self, path: Path, n: int) -> None:
        if n < 2:
            raise InputError(f"{path} holds {n} image; scores compare distributions, so give 2 images or more")
        self.path, self.order = path, compute_permutation(n, 0, 0)

    def __len__(self) -> int:
        return len(self.order)

    @abstractmethod
    def inspect(self) -> Inspection:
        """Read all of them once."""


class ImageFiles(UserImages):
    """Image files in a folder or an archive, of any sizes, decoded as they are needed."""

    def __init__(self, path: Path) -> None:
        self.source = open_source(path)
        self.names = find_images(self.source)
        super().__init__(path, len(self.names))

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        by_shape: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        unreadable: list[str] = []
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda index: self._decode(index, unreadable), self.order[first:last].tolist())
            for number, pixels in zip(range(first, last), decoded, strict=True):
                if pixels is not None:
                    by_shape[pixels.shape].append((number, pixels))
        if unreadable:
            raise unreadable_images(self.path, unreadable, len(self))
        for numbered in by_shape.values():
            yield torch.tensor([number for number, _ in numbered]), torch.stack([pixels for _, pixels in numbered])

    def _decode(self, index: int, unreadable: list[str]) -> Tensor | None:
        try:
            return decode_image(self.source.read(self.names[index]))
        except Exception as error:  # PIL and archives raise many kinds for damaged files
            unreadable.append(f"{self.names[index]} ({error})")
            return None

    def inspect(self) -> Inspection:
        digests, unreadable, grey = [], [], 0
        for name in track(self.names, f"inspecting {self.path}", console=console):
            try:
                content = self.source.read(name)
            except Exception as error:  # archives raise many kinds for damaged or encrypted members
                unreadable.append(f"{name} ({error})")
            else:
                digests.append(hashlib.sha256(content).hexdigest())
                grey += is_grey(content)
        if unreadable:
            raise unreadable_images(self.path, unreadable, len(self))
        whole = hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()  # whatever the files' names
        return Inspection(whole, grey, len(self) - grey)


class ImageArray(UserImages):
    """The images of an npz file: one uint8 array (N, H, W), (N, H, W, C) or (N, C, H, W)."""

    def __init__(self, path: Path) -> None:
        self.images = _read_npz(path)
        super().__init__(path, len(self.images))

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(first, last), self.images[self.order[first:last]]

    def inspect(self) -> Inspection:
        grey = len(self) if self.images.shape[1] == 1 else 0
        return Inspection(hash_file(self.path), grey, len(self) - grey)


def open_images(path: Path) -> UserImages:
    """Raises: InputError if there are no images at `path`, or fewer than two."""
    return ImageArray(path) if path.suffix.lower() == ".npz" else ImageFiles(path)


def _read_npz(path: Path) -> Tensor:
    """(N, C, H, W) uint8. Raises: InputError if the file holds no such images."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            array = arrays[next(name for name in ("images", "arr_0", *names) if name in names)]
    except Exception as error:  # numpy raises many kinds for damaged files
        raise InputError(f"{path} is no npz file of images: {error or 'it holds no array'}") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{path} holds pixels that are NaN or infinite")
    if array.dtype != np.uint8:
        raise InputError(f"{path} holds {array.dtype} pixels, whose range is unknown; save them as uint8 in [0, 255]")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape[2:]:
        raise InputError(f"{path} holds an array of shape {array.shape}; images are (N, H, W), (N, H, W, C), C 1 or 3")
    return torch.from_numpy(np.ascontiguousarray(array))
