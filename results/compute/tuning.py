"""Variants at equal budgets: what a search of k trials finds, and the best trial of each variant.

A winner's own score is the luckiest of all, so it is never reported: the best trial is chosen on some sampling seeds
and reported on another; and, which verdicts rest on alone, trained again with fresh seeds (`aaebench tune`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.compute.baseline import BASELINE, build_comparisons
from results.compute.statistics import MARGIN, Array, compute_half_width, is_sound
from results.compute.summary import SUMMARY, build_empty
from results.compute.trials import METHOD, PLACE, add_unscored, find_trials, gather_draws, list_values, take_out_draws
from results.read.collect import Collection
from results.read.schema import NO_SEARCH, Column

FEWEST_TRIALS = 2  # of which one can be called the best
SCORE = "fid"
REACH = 0.9  # the share of redraws of k from the trials that end inside the band
FRESH, ANOTHER = "fresh seeds", "another sampling seed"

_CELL_COLUMNS = {column.name: column for column in SUMMARY}
_NAMED = [_CELL_COLUMNS[name] for name in (*METHOD, *PLACE)]
BUDGETS = [
    *_NAMED,
    Column("k", "integer", "trials of a search"),
    Column("expected", "number", "FID of the best of k random trials, expected (Dodge et al. 2019)"),
    Column("low", "number", "5 % quantile of the best of k redrawn from these trials; no interval for a new search"),
    Column("high", "number", "95 % quantile of it"),
    Column("trials", "integer", "trials that this follows from: those that all variants of the search have"),
    Column("failed", "integer", "of them failed, which count as the worst score that any variant finished with"),
]
_COMPARED = ["ratio", "ratio_low", "ratio_high", "p_holm", "verdict"]
TUNED = [
    *_NAMED,
    Column("trials", "integer", "trials that are over, with all of their seeds"),
    Column("failed", "integer", "of them failed, which count as the worst score that any variant finished with"),
    Column("waiting", "integer", "trials that have begun and are not over"),
    Column("budget", "integer", "trials that all variants of the search have: the best is chosen from these"),
    Column("seeds", "integer", "training seeds of a trial"),
    Column("draw", "string", "the drawn values of the best trial, JSON; empty: chosen from fewer than two"),
    Column("edge", "string", "drawn numbers that are the least or largest of the trials': the best may lie beyond"),
    Column("chosen_on", "string", "by which it was chosen: held-out sampling seeds, or, without any, the run's own"),
    Column("chosen_fid", "number", "its score there, the luckiest of the trials': an estimate of nothing"),
    Column("reported_on", "string", "fresh seeds; another sampling seed of the trial itself; empty: nothing yet"),
    Column("n", "integer", "training seeds of what is reported"),
    Column("fid_mean", "number", "mean over these seeds"),
    Column("fid_std", "number", "standard deviation over them"),
    Column("fid_low", "number", "lower end of the 95 % t interval of the mean"),
    Column("fid_high", "number", "upper end of it"),
    Column("fresh_failed", "integer", "fresh seeds that failed, or scored what is not finite: no part of n"),
    Column("ratio", "number", "over the tuned AAE's, on fresh seeds; as in comparisons, likewise the next four"),
    Column("ratio_low", "number", "lower end of its 95 % interval"),
    Column("ratio_high", "number", "upper end of it"),
    Column("p_holm", "number", "adjusted over the variants of the search"),
    Column("verdict", "string", "better, worse, equivalent, undecided, or n = 1"),
    Column("note", "string", "why it is undecided where seeds failed; why trials are compared on the run's own seed"),
]


@dataclass(frozen=True)
class Tuning:
    """`budgets`: BUDGETS. `tuned`: TUNED, a row per method. `trials`: see find_trials.

    `reported`, `runs`: rows of the fresh seeds of the best trials, at the reported epoch and at all, with the drawn
    fields taken out: so the tuned methods of a search share a setting, and compare like any cells.
    """

    budgets: pd.DataFrame
    tuned: pd.DataFrame
    trials: pd.DataFrame
    reported: pd.DataFrame
    runs: pd.DataFrame


def compute_weights(n: int, k: int) -> Array:
    """(n,): the chance of each of n scores, sorted in ascending quality, to be the best of k random trials.

    (i/n)^k - ((i-1)/n)^k for i from 1 to n (Dodge et al. 2019, "Show Your Work", section 3.2).
    """
    return np.diff((np.arange(n + 1) / n) ** k)


def compute_best(chosen_by: Array, reported: Array, k: int) -> tuple[float, float, float]:
    """What is expected of the best of k random trials; and its 5 % and 95 % quantiles over redraws from these n.

    The quantiles know of no trial but these: as k nears n the lower one is about the best of them, and a new search of
    k trials ends between the two less often than in 90 % (simulated: 60 % for n = 8, k = 4; 42 % for n = k = 5).

    Args: chosen_by (n,): the score by which the best is chosen, lower is better. reported (n,): what is said of it.
    """
    order = np.argsort(-chosen_by, kind="stable")
    weights, values = compute_weights(len(order), k), reported[order]
    ranked = np.argsort(values, kind="stable")
    share = np.cumsum(weights[ranked])
    ends = np.searchsorted(share, [(1 - REACH) / 2, (1 + REACH) / 2 - 1e-12])
    low, high = values[ranked][np.minimum(ends, len(values) - 1)]
    return float(weights @ values), float(low), float(high)


def tune(collection: Collection, reported: pd.DataFrame, margin: float = MARGIN) -> Tuning:
    """What the searches of a collection found; empty tables where nobody searched.

    Args: reported: rows of its finished runs at their reported epoch.
    """
    runs = collection.runs
    if (runs["search"] == NO_SEARCH).all():
        nothing = runs.iloc[:0]
        return Tuning(build_empty(BUDGETS), build_empty(TUNED), nothing, reported.iloc[:0], nothing)
    every = add_unscored(runs, collection.unscored)
    trials = find_trials(every, reported, SCORE)
    budgets: list[dict[str, Any]] = []
    tuned: list[dict[str, Any]] = []
    for place, group in trials.groupby(PLACE, dropna=False, sort=False):
        named = dict(zip(PLACE, place, strict=True))
        chosen_on, note = _choose_reading(group)
        draws = gather_draws(group, chosen_on)
        methods = draws.groupby(METHOD, dropna=False, sort=False)
        common = set.intersection(*(set(own.loc[own["settled"], "draw"]) for _, own in methods))
        for method, own in methods:
            named = named | dict(zip(METHOD, method, strict=True))
            budgets += [named | row for row in _list_budgets(own[own["draw"].isin(common)])]
            tuned.append(named | _choose(own, common, chosen_on) | {"note": note})
    found = pd.DataFrame(tuned).reindex(columns=[column.name for column in TUNED])
    fresh = _find_fresh(reported, found)
    ended = every[every["state"].isin(["done", "failed"]) & (every["sampler"] == "prior")]
    ended = _find_fresh(ended.drop_duplicates(["run_id", "protocol_id"]), found)
    return Tuning(
        budgets=pd.DataFrame(budgets).reindex(columns=[column.name for column in BUDGETS]),
        tuned=_report(found, fresh, ended, trials, margin),
        trials=trials,
        reported=fresh,
        runs=_find_fresh(runs, found),
    )


def _choose_reading(trials: pd.DataFrame) -> tuple[str, str]:
    """By which score the best of a place is chosen (held_out where all trials that can be chosen have one, else own),
    and why it is own although some have one.
    """
    finished = trials[(trials["state"] == "done") & np.isfinite(trials["own"].astype(float))]
    lacking = int(finished["held_out"].isna().sum())
    if len(finished) and not lacking:
        return "held_out", ""
    why = f"{lacking} of {len(finished)} finished runs of the search have no second sampling seed: none is chosen on"
    return "own", why if lacking < len(finished) else ""


def _list_budgets(draws: pd.DataFrame) -> list[dict[str, Any]]:
    """BUDGETS of one method, for every k up to its trials; none where all of them failed."""
    if draws["failed"].all():
        return []
    chosen_by, reported = (draws[name].to_numpy(float) for name in ("chosen_by", "reported"))
    found = []
    for k in range(1, len(draws) + 1):
        expected, low, high = compute_best(chosen_by, reported, k)
        counts = {"trials": len(draws), "failed": int(draws["failed"].sum())}
        found.append({"k": k, "expected": expected, "low": low, "high": high, **counts})
    return found


def _choose(draws: pd.DataFrame, common: set[str], chosen_on: str) -> dict[str, Any]:
    """The best of one method's trials that all methods have, without what is reported of it."""
    settled = draws[draws["settled"]]
    row = {
        "trials": len(settled),
        "failed": int(settled["failed"].sum()),
        "waiting": int((~draws["settled"]).sum()),
        "budget": len(common),
        "seeds": int(draws["seeds"].iloc[0]),
        "chosen_on": "held-out sampling seeds" if chosen_on == "held_out" else "the run's own sampling seed",
    }
    candidates = settled[settled["draw"].isin(common) & ~settled["failed"]]
    if len(common) < FEWEST_TRIALS or candidates.empty:
        return row | {"draw": None}
    best = candidates.sort_values("chosen_by", kind="stable").iloc[0]
    return row | {"draw": best["draw"], "edge": _find_edges(best["draw"], [*common]), "chosen_fid": best["chosen_by"]}


def _find_edges(draw: str, draws: Sequence[str]) -> str:
    """The drawn numbers that are the least or the largest of all trials'."""
    edges = []
    for field, value in json.loads(draw).items():
        values = list_values(draws, field)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and min(values) != max(values):
            edges += [field] if value in (min(values), max(values)) else []
    return ", ".join(edges)


def _find_fresh(rows: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs that no search drew and that train what a best trial trains: its fresh seeds."""
    keys = [*METHOD, *PLACE, "draw"]
    plain = rows[rows["search"] == NO_SEARCH]
    parts = []
    chosen = tuned.loc[tuned["draw"].notna(), keys] if len(plain) else tuned.iloc[:0]
    for search, own in chosen.groupby("search", sort=False):
        without = take_out_draws(plain, str(search))
        parts.append(without.merge(own.astype(without[keys].dtypes.to_dict()), on=keys))
    return pd.concat(parts, ignore_index=True) if parts else plain.iloc[:0].assign(draw="")


def _report(
    tuned: pd.DataFrame, fresh: pd.DataFrame, ended: pd.DataFrame, trials: pd.DataFrame, margin: float
) -> pd.DataFrame:
    """TUNED with what is reported: of fresh seeds where there are any, else of another sampling seed of the trial.

    Args: fresh, ended: rows of fresh seeds that finished, and of those that finished or failed.
    """
    prior = fresh[(fresh["sampler"] == "prior") & is_sound(fresh[SCORE].to_numpy(float))]
    keys = [*METHOD, *PLACE]
    described = []
    for _, row in tuned.iterrows():
        of_it, over, trial = (select_like(rows, row, [*keys, "draw"]) for rows in (prior, ended, trials))
        failed = {"fresh_failed": len({*over["seed"]} - {*of_it["seed"]})}
        if len(of_it):
            described.append({"reported_on": FRESH, **_describe(of_it[SCORE]), **failed})
        elif row["draw"] is not None and row["chosen_on"].startswith("held-out"):
            described.append({"reported_on": ANOTHER, **_describe(trial["own"]), **failed})
        else:
            described.append(failed)
    reported = ["reported_on", "n", "fid_mean", "fid_std", "fid_low", "fid_high", "fresh_failed"]
    table = tuned.drop(columns=[*reported, *_COMPARED])
    table = pd.concat([table, pd.DataFrame(described, index=table.index)], axis=1)
    comparisons = build_comparisons(prior, margin)
    compared = comparisons.loc[comparisons["measure"] == SCORE, [*keys, "baseline_options", *_COMPARED]]
    table = table.merge(compared.astype(table[keys].dtypes.to_dict()), on=keys, how="left")
    judged = [_doubt(row, table) for _, row in table.iterrows()]
    table = table.assign(verdict=[verdict for verdict, _ in judged], note=[note for _, note in judged])
    return table.reindex(columns=[column.name for column in TUNED])


def _doubt(row: pd.Series, table: pd.DataFrame) -> tuple[Any, str]:
    """The verdict and note of a row of TUNED. Nothing is decided in favour of a side whose fresh seeds failed, as those
    that finished flatter it.
    """
    place = select_like(table, row, PLACE)
    aae = place[(place["variant"] == BASELINE) & (place["options"] == row["baseline_options"])]
    verdict, notes = row["verdict"], [row["note"]] if row["note"] else []
    for failed, called, favours in (
        (row["fresh_failed"], "its", ("better", "equivalent")),
        (aae["fresh_failed"].sum(), "the AAE's", ("worse", "equivalent")),
    ):
        if failed and row["verdict"] in favours:
            verdict = "undecided"
            notes.append(f"{row['verdict']} but for {failed} of {called} fresh seeds, which failed")
    return verdict, "; ".join(notes)


def select_like(rows: pd.DataFrame, row: pd.Series, names: Sequence[str]) -> pd.DataFrame:
    """The rows that are equal to this one in these columns, missing values included."""
    same = np.ones(len(rows), bool)
    for name in names:
        same &= (rows[name].isna() if pd.isna(row[name]) else rows[name] == row[name]).to_numpy(bool)
    return rows[same]


def _describe(scores: pd.Series) -> dict[str, Any]:
    """What TUNED says of scores over seeds."""
    n, mean, std = len(scores), float(scores.mean()), float(scores.std())
    half = float(compute_half_width(np.asarray(std), np.asarray(n)))
    return {"n": n, "fid_mean": mean, "fid_std": std, "fid_low": mean - half, "fid_high": mean + half}
