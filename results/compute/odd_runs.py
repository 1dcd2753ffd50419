"""Runs whose seed is far off the others of its cell: a training that went wrong but ended. Named, and never dropped."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from harness.measures import name_fid
from results.compute.baseline import compare_with, find_baselines
from results.compute.cells import Cells, build_cells, lay_out
from results.compute.moderated import FEWEST
from results.compute.statistics import MARGIN, Array, is_sound
from results.compute.summary import SETTING
from results.read.schema import PROBLEMS

FAR = 5.0  # standard deviations
MEASURES_LOOKED_AT = ["fid"]  # shares and KID spread too differently from cell to cell to have a spread in common
MOST = 20  # odd runs whose effect on the verdicts is worked out


def find_odd_runs(reported: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """A row for each odd run: run_id, `reason` in words, with its effect on the verdicts.

    A run is odd if its FID is FAR standard deviations from the mean of the other seeds, on the measure's
    scale. The standard deviation is that of the other seeds squeezed towards the one that the cells have in common,
    and no less than that, so that two seeds that happen to agree make no third one odd. Of two seeds nobody can say
    which is the odd one.
    """
    layout = lay_out(reported)
    found: dict[int, list[str]] = {}
    for measure in MEASURES_LOOKED_AT:
        cells = build_cells(layout, measure)
        numbers = np.flatnonzero(is_sound(layout.rows[measure].to_numpy(float, na_value=np.nan)))
        distance = measure_distances(cells)
        for place in np.flatnonzero(np.abs(distance) > FAR):
            row, cell = int(numbers[place]), int(cells.rows["cell"].iloc[place])
            n, value = int(cells.n[cell]), float(layout.rows[measure].iloc[row])
            others = (cells.shown[cell] * n - value) / (n - 1)
            far = f"{abs(distance[place]):.1f} standard deviations from the mean of the other {n - 1} seeds"
            text = f"{measure} {value:.4g} is {far}, {others:.4g}"
            found.setdefault(row, []).append(text)
    rows = [
        {
            "run_id": layout.rows["run_id"].iloc[row],
            "sampler": layout.rows["sampler"].iloc[row],
            "reason": "; ".join(texts),
            "row": row,
        }
        for row, texts in found.items()
    ]
    table = pd.DataFrame(rows, columns=["run_id", "sampler", "reason", "row"])
    table = table.sort_values("sampler", key=lambda names: names != "prior", kind="stable").drop_duplicates("run_id")
    effects = [_effect(reported, layout.rows.iloc[row], margin) for row in table["row"].iloc[:MOST]]
    table["reason"] += pd.Series([f"; {text}" if text else "" for text in effects], index=table.index[:MOST], dtype=str)
    return table[["run_id", "reason"]].reset_index(drop=True)


def measure_distances(cells: Cells) -> Array:
    """Of each run from the mean of its cell's other seeds, in standard deviations; NaN where no spread is known."""
    cell, value = cells.rows["cell"].to_numpy(), cells.rows["value"].to_numpy()
    n, df = cells.n[cell], cells.n[cell] - 2
    with np.errstate(invalid="ignore", divide="ignore"):
        others = (cells.mean[cell] * n - value) / (n - 1)
        # Without the run itself: the squares about the mean lose its share.
        squares = cells.own[cell] * (n - 1) - (value - cells.mean[cell]) ** 2 * n / (n - 1)
        common = np.where(cells.lenders[cell] >= FEWEST, cells.common[cell], 0.0)
        worth = np.where((common > 0) & np.isfinite(cells.worth[cell]), cells.worth[cell], 1e4) * (common > 0)
        squeezed = (worth * common + np.maximum(squares, 0)) / (worth + df)
        deviation = np.sqrt(np.maximum(squeezed, common))
        distance = (value - others) / (deviation * np.sqrt(1 + 1 / (n - 1)))
    known = (n >= 3) & ((common > 0) | (n >= 4)) & (deviation > 0)
    return np.where(known, distance, np.nan)


def _effect(reported: pd.DataFrame, run: pd.Series, margin: float) -> str:
    """What the verdicts of its setting's FID would be without the run."""
    without = reported[~((reported["run_id"] == run["run_id"]) & (reported["sampler"] == run["sampler"]))]
    before, after = (_verdicts(frame, run, margin) for frame in (reported, without))
    changes = [
        f"{name} would be {after.get(name, 'n = 0')} instead of {verdict}"
        for name, verdict in before.items()
        if after.get(name) != verdict
    ]
    if changes:
        return f"without it {', '.join(changes)}"
    return f"without it every verdict on {name_fid([run['extractor']])} stays" if before else ""


def _verdicts(reported: pd.DataFrame, run: pd.Series, margin: float) -> dict[str, str]:
    """FID's verdicts in the run's setting, by variant (and its options, where it has several cells)."""
    table = compare_with(reported, find_baselines(reported), ["fid"], margin)
    place = run[SETTING].to_frame().T.astype(reported[SETTING].dtypes.to_dict())
    own = table.merge(place, on=SETTING)
    names = own["variant"].where(~own["variant"].duplicated(keep=False), own["variant"] + " " + own["options"])
    return dict(zip(names, own["verdict"], strict=True))


def list_as_problems(odd: pd.DataFrame, paths: Mapping[str, Path]) -> pd.DataFrame:
    """Rows of `problems`: finished runs, in state `odd`."""
    table = odd.assign(state="odd", path=[str(paths.get(run_id, run_id)) for run_id in odd["run_id"]])
    return table[[column.name for column in PROBLEMS]]
