"""The commands over many runs' results: `aaebench collect`, `aaebench report`, `aaebench compare`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from cyclopts import Parameter
from rich.table import Table

from harness.allocation import count_cores
from harness.errors import InputError
from harness.escape import printable
from harness.measures import select
from harness.terminal import print_table, say
from results.compute.analysis import analyse
from results.compute.looks import load_looks
from results.compute.processes import explain_marks, mark_n
from results.compute.statistics import MARGIN, require_margin
from results.compute.summary import EpochRule
from results.compute.tables import format_cell
from results.read.collect import Collection, collect
from results.read.index import State, compute_generation, scan
from results.read.labels import NEUTRAL, label_cells, name_setting
from results.read.protocols import choose_protocol, describe_choice
from results.show.render import PAPERS, require_columns
from results.show.write import is_current, write_collection, writing

SHOWN = [measure.name for measure in select(place="terminal")]
Columns = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)]


def collect_command(
    runs: Path,
    /,
    *,
    out: Path,
    protocol: str | None = None,
    epoch: EpochRule = "last",
    margin: float = MARGIN,
    columns: Columns = PAPERS,
) -> None:
    """Collect run folders into tables, as CSV and Parquet, and the paper's Tables 1-5 as Markdown and LaTeX too.

    Writes runs, summary, comparisons, across_datasets, best, references, claims, claims_evidence, collapse, gap,
    spread, problems, provenance, protocols and tables/ to OUT; results/SCHEMA.md explains every column. Collecting
    again reads what has changed.

    Parameters
    ----------
    runs
        A folder that holds run folders at any depth.
    out
        The folder for the tables; those of an earlier collection are replaced.
    protocol
        Only the scores under one protocol (paper, clean), extractor, or protocol id. [default: all, side by side]
    epoch
        The epoch that is reported of each run: last, or held-out (of the lowest FID on a second sampling seed).
    margin
        A fraction of the AAE's mean within which a variant counts as equivalent.
    columns
        What the tables in Markdown and LaTeX show beside the method, in this order: n, fid, inception_score, kid,
        precision, recall, noise_share, published_fid, published_inception_score. CSV and Parquet have all.
        [default: n fid inception_score]
    """
    require_margin(margin)
    require_columns(columns)
    states, looks = find_runs(runs), load_looks(runs)
    manifest = describe_request(runs, states, protocol, epoch, margin, columns, len(looks))
    if not is_current(out, manifest):
        collection = load_collection(runs, states)
        chosen = choose_protocol(collection, protocol, required=False)
        analysis = analyse(chosen, epoch, margin, looks, every_reading=collection)
        with writing(out, manifest) as output:
            write_collection(analysis, output, columns)
    print_problems(pd.read_csv(out / "problems.csv"))
    print_gap(pd.read_csv(out / "gap.csv"))
    print(out)


def report_command(
    runs: Path,
    /,
    *,
    out: Path,
    protocol: str | None = None,
    epoch: EpochRule = "last",
    margin: float = MARGIN,
    columns: Columns = PAPERS,
    watch: Annotated[bool, Parameter(negative="")] = False,
    every: float = 30,
) -> None:
    """Write report.html: what was run, what it shows, tables, claims, figures; one file that works offline.

    Writes the tables of `aaebench collect` and figures/ beside it: PNG, SVG, and PDF at the widths of a paper's columns
    (the latter at the end, with --watch).

    Parameters
    ----------
    runs
        A folder that holds run folders at any depth.
    out
        The folder for the report.
    protocol
        The protocol (paper, clean), extractor or protocol id to report. [default: paper, else clean, else another]
    epoch
        The epoch that is reported of each run: last, or held-out (of the lowest FID on a second sampling seed).
    margin
        A fraction of the AAE's mean within which a variant counts as equivalent.
    columns
        What the tables in Markdown and LaTeX show beside the method, in this order: n, fid, inception_score, kid,
        precision, recall, noise_share, published_fid, published_inception_score. CSV and Parquet have all.
        [default: n fid inception_score]
    watch
        Write it again whenever something has changed, until no run is queued or running; the open page follows.
    every
        Seconds between two looks, with --watch.
    """
    from results.show.report import write_report  # noqa: PLC0415 (imports matplotlib)

    require_margin(margin)
    require_columns(columns)
    if not every > 0:
        raise InputError(f"--every {every} is no number of seconds; 1 or more, as in --every 30")
    reported = None
    while True:
        states, looks = find_runs(runs), load_looks(runs)
        manifest = describe_request(runs, states, protocol, epoch, margin, columns, len(looks))
        collection = load_collection(runs, states)
        unfinished = int(collection.problems["state"].isin(["queued", "running"]).sum())
        if manifest != reported:
            chosen = choose_protocol(collection, protocol)
            analysis = analyse(chosen, epoch, margin, looks, every_reading=collection)
            if choice := describe_choice(chosen):
                say(choice)
            with writing(out, manifest) as output:
                write_collection(analysis, output, columns)
                write_report(analysis, output, refresh=every if watch and unfinished else None)
            reported = manifest
            say(f"{out / 'report.html'}: {unfinished} runs to go")
        if not watch or not unfinished:
            break
        time.sleep(every)
    print_problems(collection.problems)
    print(out / "report.html")


def find_runs(runs: Path) -> dict[str, State]:
    """The run folders below a folder. Raises: InputError if there is no such folder, or no run folder in it."""
    if not runs.is_dir():
        raise InputError(f"there is no folder {runs}; name the folder that `aaebench run --out` wrote to")
    states = scan(runs)
    if not states:
        raise InputError(f"{runs} holds no run folders; `aaebench run --out {runs}` makes one")
    return states


def load_collection(runs: Path, states: dict[str, State] | None = None) -> Collection:
    """Raises: InputError if there is no such folder, or no run folder in it."""
    return collect(runs, find_runs(runs) if states is None else states, processes=count_cores())


def describe_request(
    runs: Path,
    states: dict[str, State],
    protocol: str | None,
    epoch: EpochRule,
    margin: float,
    columns: Sequence[str],
    looks: int,
) -> dict[str, Any]:
    """What determines a collection: equal requests give equal files."""
    chosen = {"runs": str(runs.resolve()), "protocol": protocol, "epoch": epoch, "margin": margin}
    chosen |= {"columns": list(columns), "looks": looks}
    return chosen | {"generation": compute_generation(states)}


def print_problems(problems: pd.DataFrame) -> None:
    """On standard error, a line each."""
    for problem in problems.itertuples():
        say(printable(f"{problem.state}: {problem.path}: {problem.reason}", lines=True))


def print_gap(gap: pd.DataFrame) -> None:
    """FID under the protocols paper and clean side by side, where cells were scored under both."""
    if gap.empty:
        return
    table = Table()
    told = [name for name in ("epochs", "extractor") if gap[name].nunique() > 1]
    text = ("dataset", "extractor", "variant", "sampler")
    for name in ("dataset", "px", *told, "variant", "sampler", "n", "paper", "clean", "clean - paper"):
        table.add_column(name, justify="left" if name in text else "right", no_wrap=True)
    for label, (_, row) in zip(label_cells(gap), gap.iterrows(), strict=True):
        scores = (f"{row['fid_paper']:.2f}", f"{row['fid_clean']:.2f}", f"{row['fid_gap']:+.2f}")
        n = mark_n(f"{row['n_paper']}, {row['n_clean']}", row["other_processes"])
        place = (name_setting(row["dataset"], row), str(row["image_size"]), *(str(row[name]) for name in told))
        table.add_row(*place, label, row["sampler"], n, *scores)
    print_table(table, "FID: batch statistics (paper) against running statistics (clean)")
    for note in explain_marks(label_cells(gap), gap["other_processes"]):
        print(note)


def print_summary(summary: pd.DataFrame) -> None:
    """The summary for a person, mean ± std over seeds, on standard output; a table per setting and protocol."""
    setting = ["dataset", "image_size", "epochs", "protocol_id", "extractor", *NEUTRAL]
    for _, cells in summary.groupby(setting, sort=False, dropna=False):
        first = cells.iloc[0]
        title = name_setting(f"{first['dataset']} at {first['image_size']} px, {first['epochs']} epochs", first)
        title += f"; protocol {first['protocol_id']}, extractor {first['extractor']}"
        table = Table()
        named = ["variant", "sampler"] if cells["sampler"].nunique() > 1 else ["variant"]
        for name in (*named, "n", *SHOWN, "collapse"):
            table.add_column(name, justify="left" if name in (*named, "collapse") else "right", no_wrap=True)
        labelled = cells.assign(variant=label_cells(cells))
        for _, row in labelled.iterrows():
            measures = [format_cell(row, name) for name in SHOWN]
            n = mark_n(row["n"], row["other_processes"])
            table.add_row(*(row[name] for name in named), n, *measures, row["collapse"])
        print_table(table, title)
        for note in explain_marks(labelled["variant"], labelled["other_processes"]):
            print(note)
