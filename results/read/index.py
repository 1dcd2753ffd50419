"""What was read of the run folders, kept beside them, so that collecting again reads only what has changed.

One Arrow file, `RUNS/.aaebench-index.arrow`: the rows of all folders, and in its metadata what is not rows, per folder,
with the sizes and times of the files that it was read from. It is rebuilt where there is any doubt: written by other
code, damaged, or too soon after a change to tell by its time. Without the right to write there is no index.
"""

import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.escape import printable
from harness.files import replacing_file
from harness.record import RunFolder, find_run_folders
from results.read.folder import FolderEntry, read_folder
from results.read.schema import LARGEST, NUMBERS, RUNS, Column, arrow_schema

NAME = ".aaebench-index.arrow"
FILES = ("config.json", "environment.json", "status.json", "records.jsonl")
READERS = ("record", "fields", "measures", "schema", "escape")  # modules of harness/ that say what is read
OF_AN_EVALUATION = ("protocol.json", "records.jsonl")
RACY_SECONDS = 2  # a file changed so shortly before it was read may change again within its time's resolution
CHUNK = 64  # folders that a process reads at a time
PARALLEL_FROM = 4 * CHUNK  # below that, starting processes takes longer than reading

SCHEMA = arrow_schema([Column("folder", "string", "path below the root"), *RUNS])
State = list[list[int] | None]  # size and time in ns of each file; None for one that is not there


@dataclass(frozen=True)
class Index:
    """`entries`: by path below the root, each folder's FolderEntry.describe(); `table`: SCHEMA, a row per evaluation,
    and of a run that has none one without a sampler.

    `generation` hashes the files' states: equal generations hold the same.
    """

    entries: dict[str, dict[str, Any]]
    table: pa.Table
    generation: str


def scan(root: Path) -> dict[str, State]:
    """The state of every run folder's files under `root`, in order of path."""
    return {str(folder.path.relative_to(root)): _look(folder.path) for folder in find_run_folders(root)}


def compute_generation(states: dict[str, State]) -> str:
    """A hash of what was found and of the code that reads it."""
    return hashlib.sha256(f"{hash_code()}{json.dumps(states)}".encode()).hexdigest()


@cache
def hash_code() -> str:
    """Of results/ and of what reads records: other code may read the same files otherwise."""
    folder = Path(__file__).parents[1]
    harness = folder.parent / "harness"
    files = [*folder.rglob("*.py"), *folder.rglob("*.j2"), *(harness / f"{name}.py" for name in READERS)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def load_index(root: Path, states: dict[str, State], processes: int = 1) -> Index:
    """Everything under `root`, read anew only where a file has changed since the index was written."""
    known, table = _load(root / NAME)
    now = time.time_ns()
    fresh = {path for path, state in states.items() if path in known and known[path]["files"] == state}
    missing = [path for path in states if path not in fresh]
    generation = compute_generation(states)
    if not missing and len(known) == len(fresh):
        return Index({path: known[path] for path in states}, table, generation)
    kept = drop_empty(table).filter(pc.field("folder").isin(pa.array(sorted(map(printable, fresh)), pa.large_string())))
    parts, entries = [kept], {path: known[path] for path in fresh}
    for part, described in _read_all(root, missing, processes):
        parts.append(pa.ipc.open_file(part).read_all())
        entries |= described
    for path in missing:
        newest = max((file[1] for file in states[path] if file), default=0)
        entries[path]["files"] = states[path] if newest < now - RACY_SECONDS * 1e9 else None
    table = complete(pa.concat_tables(parts, promote_options="default"), SCHEMA)
    index = Index({path: entries[path] for path in states}, table, generation)
    with suppress(OSError):  # somebody else's runs can be collected all the same
        _save(root / NAME, index)
    return index


def _look(folder: Path) -> State:
    """The state of FILES, and of those of every evaluation, in order of protocol id."""
    root = f"{folder}{os.sep}"  # text, since paths' own methods take most of the time of ten thousand folders
    states = [_look_at(root + name) for name in FILES]
    try:
        evaluations = sorted(os.listdir(f"{root}evaluations"))  # noqa: PTH208
    except OSError:
        evaluations = []
    for evaluation in evaluations:
        states += [_look_at(f"{root}evaluations/{evaluation}/{name}") for name in OF_AN_EVALUATION]
    return states


def _look_at(file: str) -> list[int] | None:
    try:
        stat = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _read_all(root: Path, paths: Sequence[str], processes: int) -> Iterator[tuple[bytes, dict[str, dict[str, Any]]]]:
    chunks = [(root, paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK)]
    if processes == 1 or len(paths) < PARALLEL_FROM:
        yield from map(_read_chunk, chunks)
        return
    # Records are trees: looking for cycles as often as by default would take a fifth of the time.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=gc.set_threshold, initargs=(200_000,)
    ) as pool:
        yield from pool.map(_read_chunk, chunks)


def _read_chunk(chunk: tuple[Path, Sequence[str]]) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """The rows of some folders, as an Arrow file, which is a tenth of what they take in memory; and their entries."""
    root, paths = chunk
    entries = {path: read_folder(RunFolder(root / path)) for path in paths}
    try:
        table = _to_arrow(entries)
    except (pa.ArrowException, OverflowError, UnicodeError):  # what no column takes, though it is valid: whose is it?
        for path, entry in entries.items():
            try:
                _to_arrow({path: entry})
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                entries[path] = FolderEntry(entry.run_id, reason=str(error))
        table = _to_arrow(entries)
    packed = pa.BufferOutputStream()
    _write(table, packed)
    return packed.getvalue().to_pybytes(), {path: entry.describe() for path, entry in entries.items()}


def _to_arrow(entries: dict[str, FolderEntry]) -> pa.Table:
    rows = [row for entry in entries.values() for row in entry.rows]
    owners = pa.array([number for number, entry in enumerate(entries.values()) for _ in entry.rows], pa.int64())
    shared = [{**entry.common, "folder": printable(path)} for path, entry in entries.items()]
    of_folder, of_row = ({name for part in parts for name in part} for parts in (shared, rows))

    def column(name: str) -> pa.Array:
        kind = SCHEMA.field(name).type
        if name in of_folder:
            return pa.array([each.get(name) for each in shared], kind).take(owners)
        return pa.array([each.get(name) for each in rows], kind)

    return _note_not_finite(pa.table({name: column(name) for name in SCHEMA.names if name in of_folder | of_row}))


def _note_not_finite(table: pa.Table) -> pa.Table:
    """Name, in each row, the scores that are NaN, infinite or beyond LARGEST."""
    flaws: dict[int, list[str]] = {}
    for name in set(NUMBERS) & {*table.column_names}:
        finite = pc.call_function("less_equal", [pc.call_function("abs", [table[name]]), pa.scalar(LARGEST)])
        if pc.call_function("any", [pc.call_function("invert", [finite])]).as_py():
            for row in (row for row, is_finite in enumerate(finite.to_pylist()) if is_finite is False):
                flaws.setdefault(row, []).append(name)
    if not flaws:
        return table
    noted = pa.array([" ".join(flaws[row]) if row in flaws else None for row in range(len(table))], pa.large_string())
    return table.append_column(SCHEMA.field("not_finite"), noted)


def drop_empty(table: pa.Table) -> pa.Table:
    """The table without the columns that no row has a value of: half of it, where mechanisms are not measured."""
    return table.select([name for name in table.column_names if table[name].null_count < max(len(table), 1)])


def complete(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with all columns of `schema`, in its order; those that it lacks are null, and share their memory."""
    nulls = {kind: pa.nulls(len(table), kind) for kind in {*schema.types}}
    columns = [table[field.name] if field.name in table.column_names else nulls[field.type] for field in schema]
    return pa.table(columns, schema=schema)


def _load(file: Path) -> tuple[dict[str, dict[str, Any]], pa.Table]:
    """The index as it was written, or an empty one."""
    try:
        with pa.ipc.open_file(file.read_bytes()) as reader:
            table = reader.read_all()
        metadata = json.loads(table.schema.metadata[b"index"])
        if (metadata["code"], metadata["columns"]) == (hash_code(), SCHEMA.names):
            return metadata["entries"], complete(table, SCHEMA)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        pass
    return {}, SCHEMA.empty_table()


def _save(file: Path, index: Index) -> None:
    metadata = json.dumps({"code": hash_code(), "columns": SCHEMA.names, "entries": index.entries})
    table = drop_empty(index.table).replace_schema_metadata({"index": metadata})
    with replacing_file(file) as temporary:
        _write(table, str(temporary))


def _write(table: pa.Table, sink: Any) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
