"""A collection on the disk: every table as CSV and as Parquet, the paper's also as Markdown and LaTeX; atomically."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from harness.errors import InputError
from harness.escape import CSV_FORMULA
from harness.files import make_folder, remove_leftovers, replacing_file, write_json, write_text
from harness.lock import lock_of
from results.compute.analysis import FILES, Analysis
from results.compute.tables import TABLE
from results.read.schema import SCHEMA_VERSION, Column, arrow_schema
from results.show.render import PAPERS, render_latex, render_markdown

MANIFEST = "collection.json"
# What a manifest may list as ours. A folder that somebody sent may have one that lists other files.
OURS = re.compile(r"((tables|figures)/)?[A-Za-z0-9][A-Za-z0-9_.-]*\.(csv|parquet|md|tex|png|svg|pdf|html)")


class Output:
    """A folder that a collection or a report is written to. Its manifest lists what is ours; all else is the user's."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: set[str] = set()

    def place(self, name: str) -> Path:
        """Where a file goes: `name` is its path below the folder. Raises: OSError if its folder cannot be made."""
        if not OURS.fullmatch(name):
            raise ValueError(f"{name!a} is no name of a file of a collection")
        self.written.add(name)
        path = self.out / name
        make_folder(path.parent)
        return path


@contextmanager
def writing(out: Path, manifest: dict[str, Any]) -> Iterator[Output]:
    """Write a collection, or a report of one, and last `collection.json`: the schema's version, what of, its files.

    Until then the manifest says `unfinished`. Who else writes to the folder waits.

    Files that an earlier manifest lists, of the kinds that were written now, are removed where they were not written
    again: they are of settings that are gone. Nothing else is.
    Raises: InputError if it cannot be written.
    """
    output = Output(out)
    try:
        make_folder(out)
        with _alone(out):
            earlier = _read_owned(out)
            _write_manifest(out, {"unfinished": True}, earlier)
            for folder in (out, out / "tables", out / "figures"):
                remove_leftovers(folder)
            yield output
            kinds = {_kind(name) for name in output.written}
            for name in earlier - output.written:
                if _kind(name) in kinds:
                    (out / name).unlink(missing_ok=True)
            listed = output.written | {name for name in earlier if _kind(name) not in kinds}
            _write_manifest(out, manifest, {name for name in listed if (out / name).is_file()})
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error}; choose another folder with --out") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else writes to the folder meanwhile, unless its file system knows no locks: then each file is whole."""
    lock = lock_of(out)
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _kind(name: str) -> str:
    return name.rpartition("/")[0] or ("page" if name.endswith(".html") else "tables")


def _read_owned(out: Path) -> set[str]:
    """The files that an earlier manifest lists."""
    try:
        files = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name for name in files if isinstance(name, str) and OURS.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _write_manifest(out: Path, manifest: dict[str, Any], names: set[str]) -> None:
    files = {name: (out / name).stat().st_size for name in sorted(names) if (out / name).is_file()}
    write_json(out / MANIFEST, {"schema_version": SCHEMA_VERSION, **manifest, "files": files})


def write_collection(analysis: Analysis, output: Output, columns: Sequence[str] = PAPERS) -> None:
    """Write all tables. Args: columns: those that Markdown and LaTeX show. Raises: OSError."""
    for name, (schema, _) in FILES.items():
        table = analysis.collection.table if name == "runs" else analysis.frames[name]
        write_table(table, schema, output.place(f"{name}.csv"))
        output.place(f"{name}.parquet")
    for table in analysis.tables:
        stem = f"tables/{table.stem}"
        write_table(table.rows, TABLE, output.place(f"{stem}.csv"))
        output.place(f"{stem}.parquet")
        write_text(output.place(f"{stem}.md"), render_markdown(table, columns))
        write_text(output.place(f"{stem}.tex"), render_latex(table, columns))


def is_current(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether `out` holds all files of this very collection, as they were written."""
    try:
        written = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        files = written.pop("files")
        return written == {"schema_version": SCHEMA_VERSION, **manifest} and all(
            (out / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def load_runs(out: Path) -> pd.DataFrame:
    """runs.csv of a collection folder. Raises: InputError if it has another schema version, or cannot be read."""
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("unfinished"):
            raise InputError(f"{out} is being written, or was not written to its end; collect its run folders again")
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
    """An Arrow table or a DataFrame to `path`, a .csv, and to the .parquet beside it. Raises: OSError.

    A missing value is empty (null); one that is not a number is nan. In the CSV a text that a spreadsheet would compute
    has an apostrophe before it.
    """
    schema = arrow_schema(columns)
    if isinstance(table, pd.DataFrame):
        table = table.reindex(columns=schema.names).replace("", None)  # an empty text is a missing one
        table = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    with replacing_file(path) as temporary:
        csv.write_csv(_disarm(table), temporary, csv.WriteOptions(quoting_style="needed"))
    with replacing_file(path.with_suffix(".parquet")) as temporary:
        parquet.write_table(table.replace_schema_metadata(schema.metadata), temporary)


def _disarm(table: pa.Table) -> pa.Table:
    for number, field in enumerate(table.schema):
        if field.type == pa.large_string():
            column = pc.call_function("dictionary_encode", [table[number].combine_chunks()])  # most repeat themselves
            texts = pc.call_function(
                "replace_substring_regex",
                [column.dictionary],
                pc.ReplaceSubstringOptions(CSV_FORMULA, r"'\1"),
            )
            table = table.set_column(number, field, texts.take(column.indices))
    return table
