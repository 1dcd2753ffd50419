"""Readers of rendered data sets whose files give the factors of each image: dSprites' npz, 3D Shapes' HDF5."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.config import Crop
from harness.data.factors import number_values
from harness.data.pixels import fit
from harness.data.readers.arrays import list_arrays
from harness.data.readers.formats import Contents
from harness.data.source import Source, require_room, shown
from harness.errors import InputError

IMAGES_AT_ONCE = 4096
DSPRITES = ("color", "shape", "scale", "orientation", "posX", "posY")
SHAPES_3D = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def read_npz(source: Source, image_size: int, crop: Crop) -> Contents:
    """dSprites' form (Matthey et al. 2017): `imgs` (N, H, W) or (N, H, W, C) uint8, of 0 and 1 or up to 255, and
    `latents_values` or `latents_classes` (N, K); `latents_names` (K,) where they are not dSprites' six.

    Raises: InputError for arrays of other forms, or that do not fit each other.
    """
    arrays = list_arrays(source.path)
    where = shown(source.path)
    values = arrays.get("latents_values", arrays.get("latents_classes"))
    if "imgs" not in arrays or values is None:
        raise InputError(f"{where} holds {', '.join(arrays)}; images are `imgs`, and factors `latents_values`")
    for array in arrays.values():
        array.verify()
    images, table = arrays["imgs"].open(), values.open()
    if "latents_names" in arrays:
        names = [str(name) for name in arrays["latents_names"].open()]
    elif table.ndim == 2 and table.shape[1] == len(DSPRITES):
        names = [*DSPRITES]
    else:
        raise InputError(f"{where}: its factors have no names; add an array latents_names of {table.shape[1:]} texts")
    factors = number_values(table, names, len(images), where)
    is_mask = images.size > 0 and all(
        part.max() <= 1 for part in np.array_split(images, -(-len(images) // IMAGES_AT_ONCE))
    )
    read = _reader(images, images.shape, images.dtype, where)
    fitted = fit_parts(read, len(images), image_size, crop, 255 if is_mask else 1, where)
    return Contents(fitted, factors=factors)


def read_hdf5(source: Source, image_size: int, crop: Crop) -> Contents:
    """3D Shapes' form (Burgess & Kim 2018): `images` (N, H, W, 3) uint8 and `labels` (N, 6), its factors.

    Raises: InputError for a file of another form, or without h5py.
    """
    try:
        import h5py  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputError("HDF5 files need h5py; install it: pip install 'aaebench[hdf5]'") from error
    path = source.path / source.named
    where = shown(path)
    try:
        with h5py.File(path) as file:
            images, labels = (file.get(name) for name in ("images", "labels"))
            if not isinstance(images, h5py.Dataset) or not isinstance(labels, h5py.Dataset):
                raise InputError(f"{where} holds {', '.join(map(shown, file))}; 3D Shapes has `images` and `labels`")
            factors = number_values(labels[:], SHAPES_3D, len(images), where)
            read = _reader(images, images.shape, images.dtype, where)
            return Contents(fit_parts(read, len(images), image_size, crop, 1, where), factors=factors)
    except (OSError, RuntimeError) as error:  # what h5py raises for damaged files
        raise InputError(f"{where} is no whole HDF5 file: {error}") from error


Read = Callable[[int, int], Tensor]


def _reader(images: Any, shape: tuple[int, ...], dtype: np.dtype, where: str) -> Read:
    """A function of first and last: images first ... last - 1 as (n, C, H, W) uint8.

    Args: images: an array, or a dataset of HDF5 that is read where it is sliced.
    Raises: InputError for an array that holds no images."""
    if dtype not in (np.uint8, np.bool_) or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise InputError(f"{where}: images are uint8 of shape (N, H, W) or (N, H, W, 3), not {dtype} {shape}")

    def read(first: int, last: int) -> Tensor:
        pixels = torch.from_numpy(np.array(images[first:last]).astype(np.uint8))
        return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)

    return read


def fit_parts(read: Read, n: int, image_size: int, crop: Crop, white: int, where: str) -> Tensor:
    """All images at S px, a part at a time: as they come they may be larger than the memory."""
    if n == 0:
        raise InputError(f"{where} holds no images")
    channels = read(0, 1).shape[1]
    require_room(n * channels * image_size**2, f"{where} at {image_size} px")
    fitted = torch.empty(n, channels, image_size, image_size, dtype=torch.uint8)
    for first in range(0, n, IMAGES_AT_ONCE):
        last = min(first + IMAGES_AT_ONCE, n)
        fitted[first:last] = fit(read(first, last) * white, image_size, crop)
    return fitted
