"""Scores hang on the eyes that look: what two extractors say of the same trained runs, and where they disagree."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from harness.protocol import EXTRACTORS
from results.compute.baseline import compare_with, find_baselines
from results.compute.dose import correlate
from results.compute.statistics import MARGIN
from results.compute.summary import CELL, SUMMARY
from results.read.schema import Column

SCORED = ["protocol_id", "extractor"]
SAME = [name for name in CELL if name not in ("protocol", *SCORED)]
SAID = [*SCORED, "ratio", "ratio_low", "ratio_high", "verdict"]
UNDECIDED = ("undecided", "n = 1")
_CELL_COLUMNS = {column.name: column for column in SUMMARY}
_MEANINGS = {
    "protocol_id": ("string", "the reading"),
    "extractor": ("string", "its extractor"),
    "ratio": ("number", "the variant's Frechet distance over the AAE's, of geometric means"),
    "ratio_low": ("number", "lower end of its 95 % interval"),
    "ratio_high": ("number", "upper end of its 95 % interval"),
    "verdict": ("string", "better, worse, equivalent, undecided, or n = 1"),
}
AGREEMENT = [
    *(_CELL_COLUMNS[name] for name in SAME),
    Column("n", "integer", "seeds that both readings have scored"),
    *(Column(name, *meaning) for name, meaning in _MEANINGS.items()),
    *(Column(f"{name}_other", kind, f"the other's: {text}") for name, (kind, text) in _MEANINGS.items()),
    Column("agreement", "string", "agree, disagree, or open: one of the two is undecided"),
    Column("runs", "integer", "of this data set, of all variants and settings, that both readings have scored"),
    Column("correlation", "number", "Spearman's, of the two readings' Frechet distances over these runs"),
]


def build_agreement(reported: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """AGREEMENT: a row for each cell that two extractors have scored from the same runs, and its AAE too.

    Args: reported: rows of finished runs at their reported epoch, under every reading.
    """
    prior = reported[(reported["sampler"] == "prior") & reported["fid"].notna()]
    columns = [column.name for column in AGREEMENT]
    rows = [part for _, data in prior.groupby(["dataset", "image_size"]) for part in _compare_readings(data, margin)]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _compare_readings(data: pd.DataFrame, margin: float) -> Iterator[pd.DataFrame]:
    """For each two readings of one data set by different extractors, of the runs that both have scored."""
    readings = data[SCORED].drop_duplicates()
    readings = readings.sort_values(SCORED, key=lambda column: column.map(_place), kind="stable")
    for first, other in combinations(readings.to_dict(orient="records"), 2):
        if first["extractor"] == other["extractor"]:
            continue
        sides = [data[data["protocol_id"] == reading["protocol_id"]] for reading in (first, other)]
        both = sides[0].merge(sides[1], on=["run_id", *SAME], suffixes=("", "_other"))
        if both.empty:
            continue
        shared = [side[side["run_id"].isin(both["run_id"])] for side in sides]
        said, said_by_other = (compare_with(side, find_baselines(side), ["fid"], margin) for side in shared)
        pairs = said[[*SAME, "n", *SAID]].merge(said_by_other[[*SAME, *SAID]], on=SAME, suffixes=("", "_other"))
        correlation, _, _, _ = correlate(*(both[name].to_numpy(float) for name in ("fid", "fid_other")))
        is_open = pairs[["verdict", "verdict_other"]].isin(UNDECIDED).any(axis=1)
        agree = np.where(pairs["verdict"] == pairs["verdict_other"], "agree", "disagree")
        yield pairs.assign(agreement=np.where(is_open, "open", agree), runs=len(both), correlation=correlation)


def _place(name: str) -> tuple[int, str]:
    """Extractors in the harness's order, then by name."""
    return EXTRACTORS.index(name) if name in EXTRACTORS else len(EXTRACTORS), name
