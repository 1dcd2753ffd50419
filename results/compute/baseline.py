"""Each variant against the AAE of its setting, seed by seed; and which of a column's best ones can be told apart."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.compute.statistics import (
    ALPHA,
    adjust_holm,
    compute_effect_size,
    compute_half_width,
    compute_p,
    compute_seeds_needed,
)
from results.compute.summary import CELL, SETTING, SUMMARY, build_empty
from results.read.schema import HIGHER_IS_BETTER, LOWER_IS_BETTER, SCORES, Column

BASELINE = "aae"
COMPARED = ["fid", "fid_infinity", "kid", "inception_score", "inception_score_10", "precision", "recall", "density"]
COMPARED += ["coverage", "noise_share", "sigma_mean", "reconstruction_l1"]

_CELL_COLUMNS = {column.name: column for column in SUMMARY}
COMPARISONS = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("measure", "string", "what is compared"),
    Column("baseline_options", "string", "options of the AAE compared with"),
    Column("n", "integer", "pairs: seeds that both finished"),
    Column("mean", "number", "of the variant over these seeds"),
    Column("baseline_mean", "number", "of the AAE over these seeds"),
    Column("difference", "number", "variant minus AAE, mean over pairs"),
    Column("difference_low", "number", "lower end of its 95 % t interval; empty for one pair"),
    Column("difference_high", "number", "upper end of its 95 % t interval; empty for one pair"),
    Column("p", "number", "two-sided paired t test; empty for one pair"),
    Column("p_holm", "number", "adjusted over the family: this measure's comparisons in this setting"),
    Column("family", "integer", "comparisons in the family that were tested"),
    Column("effect_size", "number", "Hedges' g of the paired differences"),
    Column("verdict", "string", "better, worse, different (where neither is better), not distinguishable, or n = 1"),
    Column("more_seeds", "number", "further seeds to find such a difference with a chance of 0.8 (rough); 0 if found"),
]


def build_comparisons(reported: pd.DataFrame) -> pd.DataFrame:
    """COMPARISONS: every cell against the AAE's in its setting, for each of COMPARED that both have.

    Of several AAEs in a setting the one with plain options (the published model) is the baseline; a setting without
    exactly one such has no comparisons.
    """
    table = compare_paired(reported, find_baselines(reported), COMPARED)
    # The posterior is the same whatever the codes are drawn from.
    table = table[(table["sampler"] == "prior") | table["measure"].isin(SCORES)]
    return table.reindex(columns=[column.name for column in COMPARISONS]).reset_index(drop=True)


def find_baselines(reported: pd.DataFrame) -> pd.DataFrame:
    """The AAE's cell of each setting: SETTING, variant and options."""
    cells = reported.loc[reported["variant"] == BASELINE, CELL].drop_duplicates()
    plain = {options: _is_plain(options) for options in cells["options"].unique()}
    cells = cells.assign(plain=cells["options"].map(plain).astype(bool) if len(cells) else False)
    groups = cells.groupby(SETTING, dropna=False)["plain"]
    chosen = cells[(cells["plain"] & (groups.transform("sum") == 1)) | (groups.transform("size") == 1)]
    return chosen[CELL]


def _is_plain(options: str) -> bool:
    """The AAE as published: a linear sigma head, and no remedy on."""
    return all(
        name.endswith("direction") or value in (0, 0.0, None, False, "linear")
        for name, value in json.loads(options).items()
    )


def compare_paired(reported: pd.DataFrame, reference: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Every other cell against its setting's reference cell (one row of CELL per setting), paired by seed."""
    referred = reported.merge(reference[CELL], on=CELL)
    pairs = reported.merge(
        referred[[*SETTING, "seed", "variant", "options", *measures]],
        on=[*SETTING, "seed"],
        suffixes=("", "_reference"),
    )
    pairs = pairs[(pairs["variant"] != pairs["variant_reference"]) | (pairs["options"] != pairs["options_reference"])]
    parts = []
    for measure in measures:
        # A score that is not finite leaves its pair out: n says so.
        measured = pairs[np.isfinite(pairs[measure].astype(float) - pairs[f"{measure}_reference"].astype(float))]
        if measured.empty:
            continue
        measured = measured.assign(
            difference=measured[measure].astype(float) - measured[f"{measure}_reference"],
            own=measured[measure].astype(float),
            other=measured[f"{measure}_reference"].astype(float),
        )
        groups = measured.groupby(CELL, dropna=False, sort=False)
        part = pd.DataFrame(
            {
                "baseline_options": groups["options_reference"].first(),
                "n": groups.size(),
                "mean": groups["own"].mean(),
                "baseline_mean": groups["other"].mean(),
                "difference": groups["difference"].mean(),
                "std": groups["difference"].std(),
            }
        ).reset_index()
        parts.append(part.assign(measure=measure))
    if not parts:
        return build_empty(COMPARISONS).assign(std=np.nan)
    return _test(pd.concat(parts, ignore_index=True))


def _test(table: pd.DataFrame) -> pd.DataFrame:
    mean, std, n = (table[name].to_numpy(float) for name in ("difference", "std", "n"))
    half = compute_half_width(std, n)
    p = compute_p(mean, std, n)
    adjusted, family = np.full(len(p), np.nan), np.zeros(len(p), int)
    for members in table.groupby([*SETTING, "measure"], dropna=False).indices.values():
        adjusted[members] = adjust_holm(p[members])
        family[members] = np.count_nonzero(~np.isnan(p[members]))
    needed = compute_seeds_needed(mean, std, n, ALPHA / np.maximum(family, 1))
    return table.assign(
        difference_low=mean - half,
        difference_high=mean + half,
        p=p,
        p_holm=adjusted,
        family=family,
        effect_size=compute_effect_size(mean, std, n),
        verdict=[judge(measure, *values) for measure, *values in zip(table["measure"], mean, adjusted, n, strict=True)],
        more_seeds=np.where(adjusted < ALPHA, 0.0, np.maximum(needed - n, 0)),
    )


def judge(measure: str, difference: float, p: float, n: float) -> str:
    """What a tested difference says."""
    if n < 2:
        return "n = 1"
    if not p < ALPHA:
        return "not distinguishable"
    if measure in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        return "better" if (difference < 0) == (measure in LOWER_IS_BETTER) else "worse"
    return "different"


def mark_best(reported: pd.DataFrame, summary: pd.DataFrame, measure: str) -> pd.Series:
    """For each row of the summary: `best` if it is distinguishable from every other of its setting; where it is not,
    `among the best` for it and those that it cannot be told from; else nothing. One seed marks nothing.
    """
    marks = pd.Series("", index=summary.index)
    means = summary[f"{measure}_mean"]
    candidates = summary[means.notna() & (summary["n"] >= 2)]
    if candidates.empty:
        return marks
    ordered = candidates.sort_values(f"{measure}_mean", ascending=measure in LOWER_IS_BETTER, kind="stable")
    best = ordered.drop_duplicates(SETTING)
    rivals = compare_paired(reported, best, [measure])
    if rivals.empty:
        return marks
    rivals = rivals[~(rivals["p_holm"] < ALPHA) & (rivals["n"] >= 1)]
    crowded = rivals[SETTING].drop_duplicates()
    contested = candidates.reset_index().merge(crowded, on=SETTING)["index"]
    equal = candidates.reset_index().merge(rivals[CELL], on=CELL)["index"]
    compared = candidates.groupby(SETTING, dropna=False)["n"].transform("size") > 1
    marks[[row for row in best.index if compared[row]]] = "best"
    marks[[row for row in best.index if row in set(contested)]] = "among the best"
    marks[list(equal)] = "among the best"
    return marks
