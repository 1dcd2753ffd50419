"""Labels as data come with them: numbers or words, one an image, in a column or beside each file."""

import csv
import io
import json
import posixpath
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.data.source import Source, shown
from harness.errors import InputError

NAMES = ("label", "labels", "fine_label", "class", "cls", "target", "y")  # of columns, the first that is there

METADATA, FILE_NAME = "metadata.csv", "file_name"
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}
MOST_DIGITS = 10


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
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class Labelled(NamedTuple):
    """The images that are used, their labels (N,) and the classes' names; by which files that was told, and which
    images were left out for it.
    """

    names: Sequence[str]
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    told_by: Sequence[str] = ()
    left_out: frozenset[str] = frozenset()


def label_files(source: Source, names: Sequence[str]) -> Labelled:
    """Labels of image files: of each metadata.csv (of the hub's folders), else of a .cls or .json beside each image
    (WebDataset), else of the folders in which all images lie, where there are two or more.

    Raises: InputError for files that cannot be understood, name images that are not there, or label a part of them.
    """
    if tables := [name for name in source.find_all(METADATA) if FILE_NAME in _read_csv(source, name)[0]]:
        return _label_by_tables(source, names, tables)
    beside = _find_beside(source, names)
    if beside:
        values = [_parse_label(file, source.read(file)) if (file := beside.get(_key(name))) else None for name in names]
        labels, classes = number_labels(values, shown(source.path))
        if labels is not None:
            return Labelled(names, labels, classes, [*beside.values()])
    labels, classes = _read_folders(names)
    return Labelled(names, labels, classes)


def _label_by_tables(source: Source, names: Sequence[str], tables: Sequence[str]) -> Labelled:
    values: dict[str, Any] = {}
    there = {*names}
    for table in tables:
        columns, rows = _read_csv(source, table)
        label = find_column(columns)
        for row in rows:
            name = posixpath.normpath(posixpath.join(posixpath.dirname(table), row[FILE_NAME] or ""))
            if name not in there:
                raise InputError(f"{shown(table)} in {shown(source.path)} names {shown(name)}, which is no image there")
            values[name] = _as_number(row[label] or "") if label is not None else None
    used = [name for name in names if name in values]
    if not used:
        raise InputError(f"{shown(tables[0])} in {shown(source.path)} names no image")
    labels, classes = number_labels([values[name] for name in used], shown(source.path))
    return Labelled(used, labels, classes, tables, frozenset(there - values.keys()))


def _read_csv(source: Source, name: str) -> tuple[list[str], list[dict[str, str | None]]]:
    try:
        reader = csv.DictReader(io.StringIO(source.read(name).decode("utf-8-sig"), newline=""))
        return list(reader.fieldnames or []), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{shown(name)} in {shown(source.path)} is no CSV file: {error}") from error


def _find_beside(source: Source, names: Sequence[str]) -> dict[str, str]:
    """By the key of an image, the file that has its label: a .cls, or else a .json."""
    keys = {_key(name) for name in names}
    found: dict[str, str] = {}
    for suffix in (".json", ".cls"):
        found |= {_key(name): name for name in source.names if name.endswith(suffix) and _key(name) in keys}
    return found


def _key(name: str) -> str:
    """What a WebDataset's files of one sample have in common: all before the first dot of the file's name."""
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.partition(".")[0])


def _parse_label(name: str, content: bytes) -> int | str | None:
    """None of a .json that has none. Raises: InputError, naming the file, if it cannot be read."""
    try:
        if name.endswith(".cls"):
            return _as_number(content.decode().strip())
        found = json.loads(content)
    except ValueError as error:
        raise InputError(f"{shown(name)} holds no label ({error}); a .cls is a number or a word") from error
    column = find_column(list(found)) if isinstance(found, dict) else None
    return None if column is None else found[column]


def _as_number(text: str) -> int | str | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < MOST_DIGITS else text or None


def _read_folders(names: Sequence[str]) -> tuple[Tensor | None, list[str]]:
    """The label of each image and the classes' names: the first folders in which the images' paths differ."""
    folders = [PurePosixPath(name).parent.parts for name in names]
    depth = 0
    while len({parts[: depth + 1] for parts in folders}) == 1 and len(folders[0]) > depth:
        depth += 1
    classes = sorted({parts[depth] for parts in folders if len(parts) > depth})
    lies_beside = any(len(parts) <= depth for parts in folders)
    if lies_beside or len(classes) < 2 or {name.lower() for name in classes} <= SPLITS:
        return None, []
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[parts[depth]] for parts in folders]), classes
