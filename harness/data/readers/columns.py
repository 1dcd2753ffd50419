"""Parquet and Arrow files in the hub's image layout: a column of structs with the bytes of image files, and labels."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import Crop
from harness.data.readers.formats import Batch, Contents, decode_images
from harness.data.readers.labels import find_column, number_labels
from harness.data.source import Source, choose_split, list_some, shown
from harness.errors import InputError
from harness.protocol import Split

PATTERNS = ("*.parquet", "*.arrow")
ROWS_AT_ONCE = 512


def find_tables(source: Source, split: Split) -> list[str]:
    """The files of a split, as the hub names them (`train-00000-of-00002.parquet`), or all where none is named so.

    Of a single file that was named, that one.
    """
    if source.named:
        return [source.named] if any(PurePosixPath(source.named).match(pattern) for pattern in PATTERNS) else []
    found = sorted({name for pattern in PATTERNS for name in source.find_all(pattern)})
    return choose_split(found, split == "test") if source.path.is_dir() else []


def read_tables(source: Source, image_size: int, crop: Crop, split: Split) -> Contents:
    """The images of all rows of a split's files, in order, with labels where there is a column of that name.

    Raises: InputError naming the columns if none of them has images, and rows that hold none.
    """
    return read_opened(
        [_open(source.path / name) for name in find_tables(source, split)], source.path, image_size, crop
    )


@dataclass(frozen=True)
class Table:
    """A file of rows. `batches` yields some at a time, of the columns asked for."""

    path: Path
    schema: pa.Schema
    n: int
    file: Any

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if isinstance(self.file, pq.ParquetFile):
            yield from self.file.iter_batches(ROWS_AT_ONCE, columns=columns)
        else:
            yield from self.file.select(columns).to_batches(ROWS_AT_ONCE)


def read_opened(tables: Sequence[Table], path: Path, image_size: int, crop: Crop) -> Contents:
    """As `read_tables`. Raises: InputError also for files of several layouts, or that hold nothing."""
    first, where = tables[0], shown(path)
    image = _find_images(first)
    label = find_column(first.schema.names)
    for table in tables[1:]:
        if (_find_images(table), find_column(table.schema.names)) != (image, label):
            raise InputError(f"{shown(table.path)} has other columns than {shown(first.path)}; stage one of them")
    if not (n := sum(table.n for table in tables)):
        raise InputError(f"{where} holds no rows")
    labels: list[Any] = []

    def batches() -> Iterator[Batch]:
        for table in tables:
            row = 0
            for batch in table.batches([image, *([label] if label else [])]):
                content = batch.column(image)
                content = content.field("bytes") if pa.types.is_struct(content.type) else content
                if label is not None:
                    labels.extend(batch.column(label).to_pylist())
                names = [f"{table.path.name} row {row + index}" for index in range(len(content))]
                row += len(content)
                yield Batch(names, lambda index, content=content: _read(content[index]))

    try:
        images = decode_images(path, n, batches(), image_size, crop)
    except pa.ArrowException as error:
        raise InputError(f"{where} is damaged: {error}") from error
    numbers, classes = number_labels(labels, where, _read_class_names(first.schema, label)) if label else (None, [])
    return Contents(images, numbers, classes)


def _open(path: Path) -> Table:
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path, memory_map=True)
            return Table(path, file.schema_arrow, file.metadata.num_rows, file)
        mapped = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_stream(mapped).read_all()  # as `datasets` writes it
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(mapped).read_all()
        return Table(path, table.schema, table.num_rows, table)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown(path)} is no whole {path.suffix[1:].capitalize()} file: {error}") from error


def _find_images(table: Table) -> str:
    """The column of images. Raises: InputError naming the columns if there is none, or more than one."""

    def holds_images(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and holds_images(kind.field(index).type)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    columns = {field.name: str(field.type) for field in table.schema}
    found = [field.name for field in table.schema if holds_images(field.type)]
    named = [name for name in ("image", "img") if name in found] or found
    if len(found) == 1 or named != found:
        return named[0]
    listed = list_some([f"{name} ({kind})" for name, kind in columns.items()], 20)
    what = "several columns of images" if found else "no column of images, a struct of `bytes` as the hub has it"
    raise InputError(f"{shown(table.path)} has {what}; its columns are {listed}")


def _read(cell: pa.Scalar) -> bytes:
    content = cell.as_py()
    if content is None:
        raise ValueError("it has no bytes, only a path at most")
    return content


def _read_class_names(schema: pa.Schema, label: str) -> list[str]:
    """Of the hub's ClassLabel, which a file's metadata describe."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
