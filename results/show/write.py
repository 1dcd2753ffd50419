"""A collection on the disk: every table as CSV and as Parquet, the paper's also as Markdown and LaTeX; atomically."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet

from harness.errors import InputError
from results.compute.analysis import FILES, Analysis
from results.compute.tables import TABLE
from results.read.schema import SCHEMA_VERSION, Column, arrow_schema
from results.show.render import render_latex, render_markdown

MANIFEST = "collection.json"


def write_collection(analysis: Analysis, out: Path, manifest: dict[str, Any]) -> None:
    """Write all tables to `out`, and last `collection.json`: the schema's version, what was collected, and every file.

    Raises: InputError if it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).unlink(missing_ok=True)  # until the end, the folder holds no whole collection
        for name, (columns, _) in FILES.items():
            table = analysis.collection.table if name == "runs" else analysis.frames[name]
            write_table(table, columns, out / name)
        kept = {f"tables/{table.stem}" for table in analysis.tables}
        for table in analysis.tables:
            write_table(table.rows, TABLE, out / "tables" / table.stem)
            write_text(out / "tables" / f"{table.stem}.md", render_markdown(table))
            write_text(out / "tables" / f"{table.stem}.tex", render_latex(table))
        for file in (out / "tables").glob("table*"):
            if f"tables/{file.stem}" not in kept:
                file.unlink()  # of an earlier collection
        files = {str(file.relative_to(out)): file.stat().st_size for file in sorted(_files(out))}
        write_text(
            out / MANIFEST,
            json.dumps({"schema_version": SCHEMA_VERSION, **manifest, "files": files}, indent=2) + "\n",
        )
    except OSError as error:
        raise InputError(f"cannot write the tables to {out}: {error}; choose another folder with --out") from error


def is_current(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether `out` holds all files of this very collection, as they were written."""
    try:
        written = json.loads((out / MANIFEST).read_text())
        files = written.pop("files")
        return written == {"schema_version": SCHEMA_VERSION, **manifest} and all(
            (out / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def load_runs(out: Path) -> pd.DataFrame:
    """runs.csv of a collection folder. Raises: InputError if it has another schema version, or cannot be read."""
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{out} has schema version {version}, and this aaebench reads {SCHEMA_VERSION}; "
                "collect its run folders again with this version"
            )
        return parquet.read_table(out / "runs.parquet").to_pandas()
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"cannot read the collection {out}: {error}; collect its run folders again") from error


def write_table(table: Any, columns: Iterable[Column], path: Path) -> None:
    """An Arrow table or a DataFrame to `path`.csv and `path`.parquet.

    A missing value is empty (null); one that is not a number is nan.
    """
    schema = arrow_schema(columns)
    if isinstance(table, pd.DataFrame):
        table = table.reindex(columns=schema.names).replace("", None)  # an empty text is a missing one
        table = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    csv.write_csv(table, temporary, csv.WriteOptions(quoting_style="needed"))
    temporary.replace(path.with_name(f"{path.name}.csv"))
    parquet.write_table(table.replace_schema_metadata(schema.metadata), temporary)
    temporary.replace(path.with_name(f"{path.name}.parquet"))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


def _files(out: Path) -> Iterable[Path]:
    for name in FILES:
        yield from (out / f"{name}.csv", out / f"{name}.parquet")
    yield from (out / "tables").glob("table*")
