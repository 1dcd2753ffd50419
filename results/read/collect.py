"""Run folders to tables: one row per run and evaluation, and one per folder that has something wrong with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute

from harness.escape import printable
from harness.record import Record, RunFolder
from results.read.folder import FLOOR
from results.read.index import Index, State, complete, drop_empty, load_index, scan
from results.read.labels import NEUTRAL, label_settings
from results.read.schema import COLUMNS, PROBLEMS, PROVENANCE, RUNS, TRAINING_COLUMNS, arrow_schema

pc: Any = pyarrow.compute  # its functions are made when it is imported: type checkers don't see them
PAPER_ORDER = ["aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]
SAMPLER_ORDER = ["prior", "gaussian", "gmm", "reconstruction"]
SORTED_BY = ["variant_place", "variant", "options_place", "dataset", "image_size", "label", "seed", "run_id", "epoch"]
SORTED_BY += ["protocol_id", "sampler_place", "sampler", "sampling_seed"]


@dataclass(frozen=True)
class Collection:
    """`table`: schema.RUNS, a row per run, evaluated epoch, reading, sampler and sampling seed; the paper's variants
    first, in its order.

    `floors`: rows of the same columns, of real images against real images; `sampler` is floor.<name>.
    `unscored`: a row per run that has no evaluation (yet), of the same columns: its configuration and state.
    `problems`: a row per folder that is unfinished, failed or damaged, and why.
    `provenance`: a row per run that could be read. `protocols`: the definition of each protocol id, where recorded.
    `paths`: the folder of each run by its id. `unshown`: ids of readings that were left out where one was chosen.
    """

    table: pa.Table
    floors: pd.DataFrame
    unscored: pd.DataFrame
    problems: pd.DataFrame
    provenance: pd.DataFrame
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    unshown: tuple[str, ...] = ()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """`table` for pandas; a score that is missing and one that is not a number are both NaN: see `not_finite`."""
        return self.table.to_pandas(split_blocks=True)

    def read_records(self, run_id: str) -> list[Record]:
        """A run's records: the losses of every epoch; none of a run that was removed or damaged since."""
        from harness.schema import check_records  # noqa: PLC0415 (imports pydantic)

        try:
            records = RunFolder(self.paths[run_id]).read_records()
            check_records(records)
        except (OSError, ValueError):
            return []
        return records

    def read_posteriors(self, run_id: str, protocol_id: str) -> list[Record]:
        """A run's diagnostics of the posterior, with what the table has no columns for: histograms, by epoch.

        None of a run that was removed or damaged since.
        """
        from harness.schema import check_evaluation  # noqa: PLC0415 (imports pydantic)

        try:
            lines = RunFolder(self.paths[run_id]).evaluation(protocol_id).read()
            check_evaluation(lines)
        except (OSError, ValueError, OverflowError):
            return []
        posteriors = (line for line in lines if not {"sampler", "part"} & {*line})
        return sorted(posteriors, key=lambda line: line["epoch"])

    def select(self, run_ids: set[str]) -> "Collection":
        """What concerns these runs."""
        return replace(
            self,
            table=self.table.filter(pc.field("run_id").isin(pa.array(sorted(run_ids), pa.large_string()))),
            floors=self.floors[self.floors["run_id"].isin(run_ids)],
            unscored=self.unscored[self.unscored["run_id"].isin(run_ids)],
            problems=self.problems[self.problems["run_id"].isin(run_ids)].reset_index(drop=True),
            provenance=self.provenance[self.provenance["run_id"].isin(run_ids)].reset_index(drop=True),
            paths={run_id: path for run_id, path in self.paths.items() if run_id in run_ids},
        )


def collect(root: Path, states: dict[str, State] | None = None, processes: int = 1) -> Collection:
    """Read every run folder under `root`. One that cannot be read is a problem, and stops nothing.

    An unfinished run's evaluations count as rows too, with its state beside them.

    Args: states: `index.scan(root)`, where the caller has it. processes: how many read; more than one needs a main
        module that can be imported, as multiprocessing asks.
    """
    index = load_index(root, scan(root) if states is None else states, processes)
    problems, provenance, protocols = [], [], {}
    paths: dict[str, Path] = {}
    copies = []
    for path, entry in index.entries.items():
        run_id, state, reason = entry["run_id"], entry["state"], entry["reason"]
        if state != "damaged" and run_id in paths:
            state, reason = "damaged", f"another folder of this run was read: {paths[run_id]}"
            copies.append(printable(path))
        if state != "done":
            problems.append({"path": printable(str(root / path)), "run_id": run_id, "state": state, "reason": reason})
        if state != "damaged":
            paths[run_id] = root / path
            provenance.append(entry["provenance"])
            protocols |= entry["protocols"]
    for path, run_id, other in _find_repeated(index, copies):
        copies.append(path)
        reason = f"another run of the same cell and seed was read: {other}"
        problems.append({"path": printable(str(root / path)), "run_id": run_id, "state": "damaged", "reason": reason})
        del paths[run_id]
    provenance = [row for row in provenance if row["run_id"] in paths]
    is_unscored = pc.is_null(index.table["sampler"])
    is_floor = pc.fill_null(pc.starts_with(index.table["sampler"], FLOOR), fill_value=False)
    is_copy = pc.is_in(index.table["folder"], pa.array(copies, pa.large_string()))
    return Collection(
        _sorted(index.table, pc.invert(pc.or_(pc.or_(is_floor, is_unscored), is_copy))),
        _sorted(index.table, pc.and_not(is_floor, is_copy)).to_pandas(),
        _sorted(index.table, pc.and_not(is_unscored, is_copy)).to_pandas(),
        pd.DataFrame(problems, columns=[column.name for column in PROBLEMS]),
        pd.DataFrame(provenance, columns=[column.name for column in PROVENANCE]),
        protocols,
        paths,
    )


def _find_repeated(index: Index, copies: list[str]) -> Iterator[tuple[str, str, str]]:
    """Finished runs of a cell and seed that another one has too, with their id and the other's: one counts."""
    columns = ["folder", "run_id", "state", *TRAINING_COLUMNS, "training"]
    folders = index.table["folder"].combine_chunks()
    first_rows = pc.index_in(folders.unique(), folders)
    runs = index.table.select(columns).take(first_rows).to_pandas()
    runs = runs[(runs["state"] == "done") & ~runs["folder"].isin(copies)]
    first = runs.drop_duplicates([*TRAINING_COLUMNS, "training"])
    if len(first) < len(runs):
        repeated = runs.drop(first.index).merge(first, on=[*TRAINING_COLUMNS, "training"], suffixes=("", "_first"))
        yield from zip(repeated["folder"], repeated["run_id"], repeated["run_id_first"], strict=True)


def _sorted(table: pa.Table, kept: pa.ChunkedArray) -> pa.Table:
    """The rows that are kept, in the paper's order of variants, its own setting first, then by run, epoch and sampler.

    Args: kept: a truth value for each row.
    """
    rows = drop_empty(table.select(COLUMNS)).take(pc.indices_nonzero(kept).take(_find_order(table, kept)))
    return complete(rows, arrow_schema(RUNS))


def _find_order(table: pa.Table, kept: pa.ChunkedArray) -> pa.Array:
    """The places of the rows that are kept, among these, in the order of `_sorted`."""
    keys = table.select([name for name in COLUMNS if name in (*NEUTRAL, *SORTED_BY, "options")]).filter(kept)
    settings = keys.select(["image_size", *NEUTRAL]).to_pandas()
    options = sorted(keys["options"].unique().to_pylist(), key=_natural)
    places = {
        "variant_place": _place(keys["variant"], PAPER_ORDER),
        "options_place": _place(keys["options"], options),
        "sampler_place": _place(keys["sampler"], SAMPLER_ORDER),
        "label": pa.array(label_settings(settings), pa.large_string()),
    }
    for name, column in places.items():
        keys = keys.append_column(name, column)
    return pc.sort_indices(keys, [(name, "ascending") for name in SORTED_BY])


def _place(values: pa.ChunkedArray, order: list[str]) -> pa.ChunkedArray:
    """Each value's place in an order; what is not in it comes last."""
    return pc.fill_null(pc.index_in(values, pa.array(order, pa.large_string())), len(order))


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts numbers within a text by their value: depth 2 before depth 10."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]
