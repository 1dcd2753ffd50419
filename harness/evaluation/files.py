"""Anyone's images as numbered images: folders, zip and tar archives of image files, npz arrays; given statistics."""

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.data.pixels import decode_image, read_header
from harness.data.readers.arrays import NpzArray, list_arrays
from harness.data.readers.formats import find_images, unreadable_images
from harness.data.source import exists, open_source, require_room, shown
from harness.errors import InputError
from harness.evaluation.images import NumberedImages
from harness.evaluation.statistics import Moments
from harness.files import hash_file
from harness.seeding import compute_permutation
from harness.terminal import track


@dataclass(frozen=True)
class Inspection:
    """Of images before they are scored: a checksum of their content; how many are grey, how many colour; how many would
    be shown turned, or on a background, by a viewer, and are not scored so.
    """

    sha256: str
    grey: int
    colour: int
    turned: int = 0
    transparent: int = 0


class UserImages(NumberedImages):
    """Images that a user names, in a fixed random order. `passed_over`: what else lies there, and is not used."""

    def __init__(self, path: Path, n: int, passed_over: Sequence[str]) -> None:
        if n < 2:
            raise InputError(f"{shown(path)} holds {n} image; scores compare distributions, so give 2 images or more")
        self.path, self.passed_over, self.order = path, passed_over, compute_permutation(n, 0, 0)

    def __len__(self) -> int:
        return len(self.order)

    @abstractmethod
    def inspect(self) -> Inspection:
        """Read all of them once."""


class ImageFiles(UserImages):
    """Image files in a folder or an archive, of any sizes, decoded as they are needed, and as clean-fid does it."""

    def __init__(self, path: Path) -> None:
        self.source = open_source(path)
        self.names, passed_over = find_images(self.source)
        super().__init__(path, len(self.names), passed_over)

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
            return decode_image(self.source.read(self.names[index]), as_shown=False)
        except Exception as error:  # PIL and archives raise many kinds for damaged files
            unreadable.append(f"{shown(self.names[index])} ({error})")
            return None

    def inspect(self) -> Inspection:
        digests, unreadable, grey, turned, transparent = [], [], 0, 0, 0
        for name in track(self.names, f"inspecting {shown(self.path)}"):
            try:
                content = self.source.read(name)
            except Exception as error:  # archives raise many kinds for damaged or encrypted members
                unreadable.append(f"{shown(name)} ({error})")
            else:
                digests.append(hashlib.sha256(content).hexdigest())
                header = read_header(content)
                grey += header.grey
                turned += header.turned
                transparent += header.transparent
        if unreadable:
            raise unreadable_images(self.path, unreadable, len(self))
        whole = hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()  # whatever the files' names
        return Inspection(whole, grey, len(self) - grey, turned, transparent)


class ImageArray(UserImages):
    """The images of an npz file: one uint8 array (N, H, W), (N, H, W, C) or (N, C, H, W), read where it lies."""

    def __init__(self, path: Path, array: NpzArray, others: Sequence[NpzArray]) -> None:
        self.array, self.images = array, _to_images(path, array)
        super().__init__(path, len(self.images), [str(other) for other in others])

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(first, last), self.images[self.order[first:last]].contiguous()

    def inspect(self) -> Inspection:
        self.array.verify()
        grey = len(self) if self.images.shape[1] == 1 else 0
        digest = hash_file(self.array.path)
        if self.passed_over:  # of the same file another array may be scored, too
            digest = hashlib.sha256(f"{digest} {self.array.info.filename}".encode()).hexdigest()
        return Inspection(digest, grey, len(self) - grey)


@dataclass(frozen=True)
class GivenStatistics:
    """A mean `mu` and a covariance `sigma` of features that somebody computed, as pytorch-fid saves them."""

    path: Path
    moments: Moments
    sha256: str


def open_images(path: Path) -> UserImages:
    """Of an npz file with several arrays, `FILE.npz:NAME` is one. Raises: InputError if there are no images at `path`,
    or fewer than two.
    """
    opened = open_reference(path)
    if isinstance(opened, GivenStatistics):
        raise InputError(f"{shown(path)} holds statistics, not images; they can be a reference: --real")
    return opened


def open_reference(path: Path) -> UserImages | GivenStatistics:
    """Images, or the statistics of an npz file that holds `mu` and `sigma`. Raises: InputError as `open_images`."""
    file, _, name = str(path).partition(".npz:")
    if not name and path.suffix.lower() != ".npz":
        return ImageFiles(path)
    if name and exists(path):
        return ImageFiles(path)
    file = Path(f"{file}.npz") if name else path
    arrays = list_arrays(file)
    if not name and {"mu", "sigma"} <= arrays.keys():
        return GivenStatistics(file, _read_moments(file, arrays), hash_file(file))
    array = _choose_array(file, arrays, name)
    return ImageArray(path, array, [other for other in arrays.values() if other is not array])


def _choose_array(file: Path, arrays: dict[str, NpzArray], name: str) -> NpzArray:
    """The named one, or the only one that can hold images, or the only one at all."""
    listed = "; ".join(map(str, arrays.values()))
    if name:
        if name not in arrays:
            raise InputError(f"{shown(file)} holds no array {shown(name)}; it holds {listed}")
        return arrays[name]
    candidates = [array for array in arrays.values() if array.dtype == np.uint8 and _layout(array.shape)]
    if len(candidates) == 1 or len(arrays) == 1:
        return candidates[0] if candidates else next(iter(arrays.values()))
    which = "several arrays that may be images" if candidates else "no array of images, uint8 (N, H, W, C)"
    raise InputError(f"{shown(file)} holds {which}: {listed}; name one as {shown(file)}:NAME")


def _layout(shape: tuple[int, ...]) -> str:
    """How images lie in an array of this shape: NHW, NHWC or NCHW; "" if it holds none."""
    if len(shape) not in (3, 4) or 0 in shape[1:]:
        return ""
    if len(shape) == 3:
        return "NHW"
    return "NHWC" if shape[3] in (1, 3) else "NCHW" if shape[1] in (1, 3) else ""


def _to_images(path: Path, array: NpzArray) -> Tensor:
    """(N, C, H, W) uint8, a view of the file. Raises: InputError if the array holds no such images."""
    if array.dtype.kind == "f":
        require_room(array.info.file_size, f"{shown(path)}: {array}")
        if not np.isfinite(array.open()).all():
            raise InputError(f"{shown(path)} holds pixels that are NaN or infinite")
    if array.dtype != np.uint8:
        raise InputError(
            f"{shown(path)} holds {array.dtype} pixels, whose range is unknown; save them as uint8 in [0, 255]"
        )
    layout = _layout(array.shape)
    if not layout:
        raise InputError(
            f"{shown(path)} holds an array of shape {array.shape}; images are (N, H, W), (N, H, W, C), C 1 or 3"
        )
    images = torch.from_numpy(array.open())
    if layout == "NHW":
        return images[:, None]
    return images.permute(0, 3, 1, 2) if layout == "NHWC" else images


def _read_moments(file: Path, arrays: dict[str, NpzArray]) -> Moments:
    """Raises: InputError unless mu is (F,) and sigma (F, F), symmetric and finite."""
    mu, sigma = arrays["mu"], arrays["sigma"]
    square = len(mu.shape) == 1 and sigma.shape == mu.shape * 2
    if not square or mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise InputError(f"{shown(file)} holds {mu} and {sigma}; statistics are mu (F,) and sigma (F, F)")
    require_room(2 * sigma.info.file_size, f"{shown(file)}: {sigma}")
    for array in (mu, sigma):
        array.verify()
    mean, covariance = (torch.from_numpy(np.asarray(array.open(), np.float64).copy()) for array in (mu, sigma))
    if not mean.isfinite().all() or not covariance.isfinite().all():
        raise InputError(f"{shown(file)} holds statistics that are NaN or infinite")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * covariance.abs().max().item()):
        raise InputError(f"{shown(file)} holds a sigma that is not symmetric, and so is no covariance")
    return Moments(0, mean, covariance)
