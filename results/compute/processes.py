"""Seeds that were trained on another number of processes than their setting's others: which, and how they are marked.

Sums over processes round otherwise, and BatchNorm sees another batch on each: such a seed may be off for that alone.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from results.compute.statistics import Array
from results.read.schema import Column

MARK = "‡"
NOTE = f"{MARK}: trained on another number of processes than most runs of the setting."
OTHER_PROCESSES = Column(
    "other_processes",
    "string",
    "seeds that were trained on another number of processes than most runs of the setting; mostly empty",
)


def find_usual(runs: pd.DataFrame, setting: Array) -> Array:
    """The number of processes on which most runs of each run's setting were trained; the smaller one of a tie.

    Args: runs (N rows): with `num_processes`. setting (N,): numbers of their settings. Returns: (N,), NaN for unknown.
    """
    counts = pd.DataFrame({"setting": setting, "processes": runs["num_processes"].to_numpy(float, na_value=np.nan)})
    sizes = counts.groupby(["setting", "processes"]).size().rename("runs").reset_index()
    most = sizes.sort_values(["runs", "processes"], ascending=[False, True]).drop_duplicates("setting")
    return counts["setting"].map(most.set_index("setting")["processes"]).to_numpy(float)


def find_others(runs: pd.DataFrame, setting: Array) -> Array:
    """Which runs were trained on another number of processes than is usual in their setting (N,). Args: as above."""
    own = runs["num_processes"].to_numpy(float, na_value=np.nan)
    return np.isfinite(own) & (own != find_usual(runs, setting))


def describe_others(runs: pd.DataFrame, setting: Array, cell: Array) -> list[str]:
    """Of each cell, by its number, the seeds that stand out: "seeds 1, 2 on 4 processes, others on 1"; mostly nothing.

    Args: runs: with `seed` too. setting: as above. cell (N,): the number of each run's cell.
    """
    texts = [""] * (cell.max() + 1 if len(cell) else 0)
    others = find_others(runs, setting)
    if not others.any():
        return texts
    found = runs.assign(cell=cell, usual=find_usual(runs, setting))[others]
    for _, rows in found.groupby("cell"):
        parts = []
        for n in sorted(rows["num_processes"].unique()):
            seeds = sorted(rows.loc[rows["num_processes"] == n, "seed"].unique())
            parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} on {n:.0f}")
        texts[rows["cell"].iloc[0]] = f"{', '.join(parts)} processes, others on {rows['usual'].iloc[0]:.0f}"
    return texts


def mark_n(n: object, other_processes: object) -> str:
    """The number of seeds as tables show it, marked where some of them were trained otherwise.

    Args: other_processes: what the column of that name says; nothing, "" or NaN where there are none.
    """
    return f"{n} {MARK}" if isinstance(other_processes, str) and other_processes else str(n)


def explain_marks(labels: Iterable[str], other_processes: Iterable[object], note: str = NOTE) -> list[str]:
    """The note on the marks of a table, naming the seeds; none where none is marked. Args: of each row."""
    rows = zip(labels, other_processes, strict=True)
    named = [f"{label}: {text}" for label, text in rows if isinstance(text, str) and text]
    return [f"{note} {'; '.join(dict.fromkeys(named))}."] if named else []
