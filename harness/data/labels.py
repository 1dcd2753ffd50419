"""Labels as data come with them: numbers or words, one an image, in a column or beside each file."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.source import shown
from harness.errors import InputError

NAMES = ("label", "labels", "fine_label", "class", "cls", "target", "y")  # of columns, the first that is there


def find_column(columns: Sequence[str]) -> str | None:
    """The column of labels, by its name."""
    return next((name for name in NAMES if name in columns), None)


def number_labels(values: Sequence[Any], where: str, classes: Sequence[str] = ()) -> tuple[Tensor | None, list[str]]:
    """Labels (N,) int64 and the classes' names. Numbers stay as they are; words are numbered in their order.

    Args: values: one of each image; `classes`: names of the numbers, if they are known.
    Returns: None where every image has -1, or nothing, as the hub's test sets do.
    Raises: InputError for values of another kind, or where some images have one and others have none.
    """
    lacking = [index for index, value in enumerate(values) if value is None or value == -1]
    if len(lacking) == len(values):
        return None, []
    if lacking:
        raise InputError(
            f"{where}: {len(lacking)} of {len(values)} images have no label, the first of them image {lacking[0]}"
        )
    if all(isinstance(value, str) for value in values):
        names = sorted(set(values))
        numbers = {name: number for number, name in enumerate(names)}
        return torch.tensor([numbers[value] for value in values]), names
    wrong = [value for value in values if not _is_label(value)]
    if wrong:
        raise InputError(f"{where}: labels are whole numbers from 0 on, or words; not {shown(wrong[0])}")
    return torch.tensor(np.asarray(values, np.int64)), list(classes)


def _is_label(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value < 2**31


def parse_label(name: str, content: bytes) -> int | str:
    """The label of a WebDataset's `.cls`, a number or a word, or `.json`, under one of NAMES.

    Raises: InputError, naming the file, if there is none.
    """
    try:
        text = content.decode().strip()
        value = text
        if name.endswith(".json"):
            found = json.loads(text)
            value = found[find_column(list(found)) or NAMES[0]]
        if isinstance(value, str) and not (value.isascii() and value.isdigit()):
            return value
        return int(value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{shown(name)} holds no label; a .cls is a number or a word, a .json has it as `label`"
        ) from error
