"""npz and npy files of pixels, under the names that people give them, with labels where there are some."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Crop
from harness.data.readers.arrays import NpzArray, list_arrays
from harness.data.readers.formats import Contents
from harness.data.readers.labels import number_labels
from harness.data.readers.rendered import IMAGES_AT_ONCE, fit_parts
from harness.data.source import Source, shown
from harness.errors import InputError
from harness.protocol import Split

# Of images, and of the labels beside them: one's own; numpy's without names, as ADM's sample batches are.
PAIRS = (("images", "labels"), ("images", "label"), ("arr_0", "arr_1"), ("x", "y"), ("data", "labels"))
# MedMNIST's, Keras's; the split stands for the first word.
SPLIT_PAIRS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))


def read_arrays(source: Source, image_size: int, crop: Crop, split: Split) -> Contents:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3, uint8, or floats in [0, 1] or in [0, 255];
    labels (N,) or (N, 1).

    Raises: InputError for arrays of other names, forms or ranges, or that do not fit each other.
    """
    if source.named:
        path = source.path / source.named
        images, labels = _open_npy(path), None
    else:
        path = source.path
        arrays = list_arrays(path)
        for array in arrays.values():
            array.verify()
        images, labels = _choose(arrays, path, split)
    where = shown(path)
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{where}: {len(images)} images but {len(labels)} labels; they are of different sets")
    numbers, classes = None, []
    if labels is not None:
        if labels.ndim > 2 or (labels.ndim == 2 and labels.shape[1] != 1):
            raise InputError(f"{where}: labels are of shape (N,) or (N, 1), not {labels.shape}; one an image")
        numbers, classes = number_labels(labels.reshape(-1).tolist(), where)
    by_rows = _channels_last(images, where)
    scale = _find_scale(images, where)
    fitted = fit_parts(partial(_read, by_rows, scale), len(images), image_size, crop, 1, where)
    return Contents(fitted, numbers, classes)


def _open_npy(path: Path) -> np.ndarray:
    """Mapped into memory. Raises: InputError if it is damaged, or holds Python objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises many kinds for damaged files
        raise InputError(f"{shown(path)} is no whole npy file of numbers: {error}") from error


def _choose(arrays: Mapping[str, NpzArray], path: Path, split: Split) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays of images and labels. Raises: InputError naming what there is if none is called so."""
    of_split = [tuple(name.format(split) for name in pair) for pair in SPLIT_PAIRS]
    pairs = [pair for pair in (*of_split, *PAIRS) if pair[0] in arrays]
    if pairs:
        images, labels = min(pairs, key=lambda pair: pair[1] not in arrays)  # with labels, if any
        return arrays[images].open(), arrays[labels].open() if labels in arrays else None
    if len(arrays) == 1:
        (only,) = arrays.values()
        return only.open(), None
    held = ", ".join(map(str, arrays.values()))
    raise InputError(
        f"{shown(path)} holds {held}; images are called images, arr_0 or {split}_images, and labels labels, arr_1 or "
        f"{split}_labels"
    )


def _channels_last(images: np.ndarray, where: str) -> np.ndarray:
    """(N, H, W, C). Raises: InputError for another shape or type."""
    shape, numeric = images.shape, images.dtype == np.uint8 or images.dtype.kind == "f"
    if numeric and images.ndim == 3:
        return images[..., None]
    if numeric and images.ndim == 4 and shape[3] in (1, 3):
        return images
    if numeric and images.ndim == 4 and shape[1] in (1, 3):
        return images.transpose(0, 2, 3, 1)
    raise InputError(
        f"{where}: images are uint8 or floats of shape (N, H, W), (N, H, W, C) or (N, C, H, W), with 1 or 3 channels; "
        f"not {images.dtype} {shape}"
    )


def _find_scale(images: np.ndarray, where: str) -> float:
    """What makes them 0 to 255. Raises: InputError naming the range of floats in neither [0, 1] nor [0, 255]."""
    if images.dtype == np.uint8 or images.size == 0:
        return 1.0
    parts = np.array_split(images, -(-len(images) // IMAGES_AT_ONCE))
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    if not (low >= 0 and high <= 255):  # NaN is in no range
        raise InputError(
            f"{where}: its pixels are floats from {low:g} to {high:g}, where [0, 1] or [0, 255] is meant; scale them "
            "to one of these, or to uint8"
        )
    return 255.0 if high <= 1 else 1.0


def _read(images: np.ndarray, scale: float, first: int, last: int) -> Tensor:
    pixels = np.asarray(images[first:last])
    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.float32) * scale).round().astype(np.uint8)
    return torch.from_numpy(np.array(pixels.transpose(0, 3, 1, 2), order="C"))
