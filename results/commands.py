"""The commands over many runs' results: `aaebench collect`."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.errors import InputError
from harness.terminal import console
from results.collapse import build_collapse_table
from results.collect import Collection, collect
from results.summary import distinguishing_options, summarise

SHOWN = {"fid": 2, "inception_score": 2, "sigma_mean": 3, "noise_share": 3, "reconstruction_l1": 3}


def collect_command(runs: Path, /, *, out: Path) -> None:
    """Collect run folders into CSVs: runs.csv, summary.csv, collapse.csv and problems.csv in OUT.

    Parameters
    ----------
    runs
        A folder that holds run folders at any depth.
    out
        The folder for the CSVs; those of an earlier collection are replaced.
    """
    collection = load_collection(runs)
    write_tables(collection, out)
    print(out)


def load_collection(runs: Path) -> Collection:
    """Raises: InputError if there is no such folder, or no run folder in it."""
    if not runs.is_dir():
        raise InputError(f"there is no folder {runs}; name the folder that `aaebench run --out` wrote to")
    collection = collect(runs)
    if collection.runs.empty and collection.problems.empty:
        raise InputError(f"{runs} holds no run folders; `aaebench run --out {runs}` makes one")
    return collection


def write_tables(collection: Collection, out: Path) -> pd.DataFrame:
    """Write the CSVs and say on standard error which folders have a problem. Returns: the summary."""
    summary = summarise(collection.runs)
    tables = {
        "runs": collection.runs,
        "summary": summary,
        "collapse": build_collapse_table(collection),
        "problems": collection.problems,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            temporary = out / f".{name}.csv"
            table.to_csv(temporary, index=False)
            temporary.replace(out / f"{name}.csv")
    except OSError as error:
        raise InputError(f"cannot write the tables to {out}: {error}; choose another folder with --out") from error
    for problem in collection.problems.itertuples():
        console.print(
            f"{problem.state}: {problem.path}: {problem.reason}", markup=False, highlight=False, soft_wrap=True
        )
    return summary


def print_summary(summary: pd.DataFrame) -> None:
    """The summary for a person, mean ± std over seeds, on standard output; a table per data set and protocol."""
    setting = ["dataset", "image_size", "epochs", "protocol_id", "extractor"]
    for (dataset, size, epochs, protocol_id, extractor), cells in summary.groupby(setting, sort=False):
        title = f"{dataset} at {size} px, {epochs} epochs; protocol {protocol_id}, extractor {extractor}"
        table = Table(title=title, title_justify="left")
        rows = cells.assign(options=distinguishing_options(cells))
        named = ["variant", "options"] if rows["options"].any() else ["variant"]
        named += ["sampler"] if rows["sampler"].nunique() > 1 else []
        for name in (*named, "n", *SHOWN, "collapse"):
            table.add_column(name, justify="left" if name in (*named, "collapse") else "right", no_wrap=True)
        for _, row in rows.iterrows():
            measures = [_mean_and_std(row, name, digits) for name, digits in SHOWN.items()]
            table.add_row(*(row[name] for name in named), str(row["n"]), *measures, row["collapse"])
        Console(width=max(160, Console().width), highlight=False).print(table)


def _mean_and_std(row: pd.Series, name: str, digits: int) -> str:
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    return "" if pd.isna(mean) else f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")
