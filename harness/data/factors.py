"""Factors of variation: what each image of a rendered data set was made from, one value of each factor per image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harness.data.source import shown
from harness.errors import InputError

Value = str | float


@dataclass(frozen=True)
class Factor:
    """One factor: its name, and its values in the order of their numbers."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Factors:
    """K factors of N images: `numbers` (N, K) int64 says which value of each factor an image has."""

    factors: tuple[Factor, ...]
    numbers: Tensor

    @property
    def names(self) -> list[str]:
        return [factor.name for factor in self.factors]

    def select(self, rows: Tensor) -> "Factors":
        """Of these images alone. Args: rows: indices (n,)."""
        return replace(self, numbers=self.numbers[rows])

    def describe(self) -> str:
        """Names and values as JSON, for the metadata of what is stored beside `numbers`."""
        return json.dumps([{"name": factor.name, "values": factor.values} for factor in self.factors])


def read_description(described: str, numbers: Tensor) -> Factors:
    """The inverse of `Factors.describe`."""
    parts = json.loads(described)
    return Factors(tuple(Factor(part["name"], tuple(part["values"])) for part in parts), numbers)


def number_values(values: np.ndarray, names: Sequence[str], n_images: int, where: object) -> Factors:
    """The factors whose values (N, K), any numbers, are given for each of N images.

    Raises: InputError if they are not a table with a row per image and a column per name, or are not all finite.
    """
    table = np.asarray(values)
    if table.ndim != 2 or len(table) != n_images:
        raise InputError(
            f"{shown(where)}: factors of shape {table.shape} do not fit {n_images} images; a row of factors per image "
            "is needed"
        )
    if table.shape[1] != len(names) or not names or len({*names}) < len(names):
        raise InputError(
            f"{shown(where)}: {table.shape[1]} factors need as many different names, and have {len(names)}: "
            f"{', '.join(map(shown, names))}"
        )
    if table.dtype.kind not in "biuf":
        raise InputError(f"{shown(where)}: factors have to be numbers, not {table.dtype}")
    if len(wrong := np.argwhere(~np.isfinite(table))):
        row, column = wrong[0]
        raise InputError(
            f"{shown(where)}: factors have to be finite, and {len(wrong)} of their {table.size} values are not; the "
            f"first is in row {row}, counted from 0: {shown(names[column])} is {table[row, column]}"
        )
    factors, numbers = [], []
    for name, column in zip(names, table.T, strict=True):
        found, number = np.unique(column, return_inverse=True)
        factors.append(Factor(str(name), tuple(float(value) for value in found)))
        numbers.append(torch.from_numpy(number.astype(np.int64)))
    return Factors(tuple(factors), torch.stack(numbers, dim=1))
