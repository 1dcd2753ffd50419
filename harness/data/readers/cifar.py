"""CIFAR-10's batches: pickles read by a reader that knows arrays of numbers and nothing else, or the binary version."""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
import torch

from harness.data.readers.formats import Contents, read_content
from harness.data.source import Source, shown
from harness.errors import InputError

PIXELS = 3 * 32 * 32
CLASSES = 10
NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}  # numpy's names of the integers


def read_cifar10(source: Source, patterns: list[str]) -> Contents:
    """Batches of CIFAR-10, in the python version or the binary one. Raises: InputError if one is missing or damaged."""
    batches = [_read_batch(source, pattern) for pattern in patterns]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return Contents(torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels.astype(np.int64)))


def _read_batch(source: Source, pattern: str) -> tuple[np.ndarray, np.ndarray]:
    name = source.find(pattern)
    content = read_content(source, name)
    where = f"{shown(name)} in {shown(source.path)}"
    if name.endswith(".bin"):
        if not content or len(content) % (PIXELS + 1):
            raise InputError(f"{where} is truncated: {len(content)} bytes in records of {PIXELS + 1}")
        records = np.frombuffer(content, np.uint8).reshape(-1, PIXELS + 1)
        pixels, labels = records[:, 1:], records[:, 0]
    else:
        try:
            batch = load_arrays(content)
            pixels, labels = batch[b"data"].values, np.array([int(label) for label in batch[b"labels"]], np.uint8)
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise InputError(f"{where} is no CIFAR-10 batch: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS):
            raise InputError(f"{where} holds no bytes ({len(labels)}, {PIXELS}) for its {len(labels)} labels")
    if len(labels) and labels.max() >= CLASSES:
        raise InputError(f"{where} holds the label {labels.max()}; CIFAR-10 has {CLASSES} classes")
    return pixels, labels


def load_arrays(content: bytes) -> Any:
    """What a pickle of containers, text, numbers and integer arrays holds. None of its own code runs, nor numpy's.

    Raises: whatever a pickle that is damaged, or holds something else, raises.
    """
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and argument is not None and int(argument) > len(content):
            raise pickle.UnpicklingError("it wants more memory than it has content")  # a table of that length
    return _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()


class _ArrayUnpickler(pickle.Unpickler):
    """What numpy writes for an array is read by the three stand-ins below, never by numpy itself: a crafted dtype or
    shape ends its process.
    """

    def find_class(self, module_name: str, global_name: str) -> object:
        known = {
            ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, code: StoredArray(),
            ("numpy", "ndarray"): "ndarray",
            ("numpy", "dtype"): _Number,
            ("_codecs", "encode"): _encode,
        }
        wanted = (module_name.replace("numpy.core", "numpy._core"), global_name)  # numpy's name for it until version 2
        if wanted not in known:
            raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")
        return known[wanted]


class _Number:
    """An integer type of an array, by numpy's name."""

    order: Any = "="

    def __init__(self, name: str | bytes, align: object = False, copy: object = False) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name
        if self.name not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.name!r}, which is no type of integers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        self.order = order.decode() if isinstance(order, bytes) else order
        if self.order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise pickle.UnpicklingError("it holds an array of a type with parts")


class StoredArray:
    """An array of integers: `values`, a view of its bytes, whose number is that of its shape."""

    values: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Number) or by_columns or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} that is no table of integers by rows")
        dtype = np.dtype(kind.name).newbyteorder(kind.order)
        if not isinstance(content, bytes) or len(content) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError(f"it holds an array of shape {shape} in too few or too many bytes")
        self.values = np.frombuffer(content, dtype).reshape(shape)


def _encode(text: str, encoding: str | bytes = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it wants text in {encoding!r}")
    return text.encode("latin1")
