"""Each variant against the AAE of its setting: better, worse, equivalent or undecided; and which may be the best."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from harness.measures import MEASURES, select
from results.compute.cells import Cells, build_cells, lay_out
from results.compute.processes import OTHER_PROCESSES, describe_others
from results.compute.statistics import (
    ALPHA,
    MARGIN,
    Array,
    adjust_holm,
    compute_effect_size,
    compute_margin,
    compute_p_above,
    compute_p_equivalent,
    compute_reach,
    compute_seeds_needed,
    from_scale,
    to_scale,
)
from results.compute.summary import CELL, SETTING, SUMMARY, build_empty
from results.read.labels import PAPER_OPTIONS
from results.read.schema import Column

BASELINE = "aae"
COMPARED = [measure.name for measure in select(compared=True)]
VERDICTS = ["better", "worse", "different", "equivalent", "undecided", "n = 1"]

_CELL_COLUMNS = {column.name: column for column in SUMMARY}
COMPARISONS = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("measure", "string", "what is compared"),
    Column("baseline_options", "string", "options of the AAE compared with"),
    Column("n", "integer", "seeds of the variant; of pairs, seeds that both finished"),
    Column("n_baseline", "integer", "seeds of the AAE; likewise"),
    OTHER_PROCESSES,
    Column("mean", "number", "of the variant over these seeds"),
    Column("baseline_mean", "number", "of the AAE over these seeds"),
    Column("difference", "number", "variant's mean minus the AAE's"),
    Column("difference_low", "number", "lower end of its 95 % interval, beside the AAE's mean; empty for one seed"),
    Column("difference_high", "number", "upper end of its 95 % interval, likewise"),
    Column("scale", "string", "on which it was judged: log, logit or linear"),
    Column("ratio", "number", "variant over AAE: of geometric means (log), of odds (logit); empty on the linear scale"),
    Column("ratio_low", "number", "lower end of its 95 % interval"),
    Column("ratio_high", "number", "upper end of its 95 % interval"),
    Column("test", "string", "moderated, welch (nothing to borrow from), or with `paired `: seed by seed"),
    Column("prior_df", "number", "d0: degrees of freedom that the variances borrowed; 0: none"),
    Column("prior_deviation", "number", "s0: the common standard deviation over seeds, on the scale"),
    Column("prior_cells", "integer", "cells that it comes from"),
    Column("correlation", "number", "of the scores of runs with the same seed, over those cells"),
    Column("error", "number", "standard error of the difference, on the scale"),
    Column("df", "number", "degrees of freedom of the t test"),
    Column("p", "number", "two-sided t test; empty for one seed, or without a spread"),
    Column("p_holm", "number", "adjusted over the family: this measure's comparisons in this setting"),
    Column("p_equivalent", "number", "that the difference is inside the margin: two one-sided tests, adjusted alike"),
    Column("level", "number", "at which both are judged: 0.05, or less where looks at the runs spend it"),
    Column("family", "integer", "comparisons in the family that were tested"),
    Column("effect_size", "number", "Hedges' g, on the scale"),
    Column("verdict", "string", "better, worse, different (no direction is better), equivalent, undecided, or n = 1"),
    Column("more_seeds", "number", "further seeds of each to decide it with a chance of 0.8 (rough); 0 if decided"),
    Column("note", "string", "why there is no p, or what stands out"),
]


def build_comparisons(reported: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """COMPARISONS: every cell against the AAE's in its setting, for each of COMPARED that both have.

    Of several AAEs in a setting the one with plain options (the published model) is the baseline; a setting without
    exactly one such has no comparisons.
    """
    measured = [measure for measure in COMPARED if reported[measure].notna().any()]
    table = compare_with(reported, find_baselines(reported), measured, margin)
    # Posterior and mechanisms are the same whatever the codes are drawn from.
    scores = {measure.name for measure in select("eval")}
    table = table[(table["sampler"] == "prior") | table["measure"].isin(scores)]
    return table.reindex(columns=[column.name for column in COMPARISONS]).reset_index(drop=True)


def find_baselines(reported: pd.DataFrame) -> pd.DataFrame:
    """The AAE's cell of each setting: SETTING, variant and options."""
    cells = reported.loc[reported["variant"] == BASELINE, CELL].drop_duplicates()
    return choose_published(cells, SETTING)[CELL]


def choose_published(rows: pd.DataFrame, within: Sequence[str]) -> pd.DataFrame:
    """Of the rows that are alike in `within` the one with the paper's options, or else the only one."""
    pairs = rows[["variant", "options"]].drop_duplicates()
    published = pd.Series([is_published(*pair) for pair in pairs.itertuples(index=False)], dtype=bool)
    marked = rows.merge(pairs.assign(published=published.to_numpy()))
    groups = marked.groupby([*within], dropna=False)["published"]
    alone = groups.transform("size") == 1
    return marked[(marked["published"] & (groups.transform("sum") == 1)) | alone].drop(columns="published")


def is_published(variant: str, options: str) -> bool:
    """Whether a variant's options are the paper's: its own, sigma's head, and no remedy on."""
    papers = PAPER_OPTIONS.get(variant, {})
    return all(
        value == papers[name]
        if name in papers
        else name.endswith("direction") or value in (0, 0.0, None, False, "linear")
        for name, value in json.loads(options).items()
    )


def compare_with(
    reported: pd.DataFrame,
    reference: pd.DataFrame,
    measures: Sequence[str],
    margin: float = MARGIN,
    cautious: bool = False,
) -> pd.DataFrame:
    """Every other cell against its setting's reference cell (one row of CELL per setting): COMPARISONS.

    Args: cautious: for tests that stand alone, as claims' do (see Prior.squeeze).
    """
    parts, layout = [], lay_out(reported)
    referred = layout.keys.reset_index().merge(reference[CELL], on=CELL)["index"].to_numpy()
    settings = layout.setting[layout.first]
    of_setting = np.full(len(settings) + 1, -1)  # the reference cell of each setting
    of_setting[settings[referred]] = referred
    texts = describe_others(layout.rows, layout.setting, layout.cell)
    marked = np.array(
        [f"{variant}: {text}" if text else "" for variant, text in zip(layout.keys["variant"], texts, strict=True)],
        object,
    )
    for measure in measures:
        cells = build_cells(layout, measure)
        other = of_setting[settings]
        own = np.flatnonzero((other >= 0) & (other != np.arange(len(other))))
        own = own[(cells.n[own] > 0) & (cells.n[other[own]] > 0)]
        if len(own):
            both = ["; ".join(filter(None, pair)) for pair in zip(marked[own], marked[other[own]], strict=True)]
            parts.append(_compare(cells, own, other[own], margin, cautious).assign(other_processes=both))
    if not parts:
        return build_empty(COMPARISONS)
    return pd.concat(parts, ignore_index=True)


def _compare(cells: Cells, own: Array, other: Array, margin: float, cautious: bool) -> pd.DataFrame:
    test, paired, n = cells.test(own, other, cautious)
    families = cells.setting[own]
    reach = compute_reach(test.error, test.df)
    low, high = test.difference - reach, test.difference + reach
    allowed = compute_margin(cells.shown[other], cells.scale, margin)
    p = test.p
    equivalent = compute_p_equivalent(test.difference, test.error, test.df, allowed)
    adjusted, adjusted_equivalent, family = (np.full(len(p), np.nan) for _ in range(3))
    for members in _by_size(families):
        adjusted[members], adjusted_equivalent[members] = adjust_holm(p[members]), adjust_holm(equivalent[members])
        family[members] = np.count_nonzero(~np.isnan(p[members]), axis=1, keepdims=True)
    level = np.full(len(p), ALPHA)
    borrowed = np.minimum(cells.worth[own], cells.worth[other])
    decided = (adjusted < level) | (adjusted_equivalent < level)
    ratio = [
        np.exp(part) if cells.scale != "linear" else np.full(len(p), np.nan) for part in (test.difference, low, high)
    ]
    names = np.where(borrowed > 0, "moderated", "welch").astype(object)
    verdicts = [
        judge(cells.measure, *values)
        for values in zip(test.difference, adjusted, adjusted_equivalent, n, level, strict=True)
    ]
    centre = to_scale(cells.shown[other], cells.scale)
    return (
        cells.keys.loc[own]
        .reset_index(drop=True)
        .assign(
            measure=cells.measure,
            baseline_options=cells.keys["options"].to_numpy()[other],
            n=np.where(paired, n, cells.n[own]),
            n_baseline=np.where(paired, n, cells.n[other]),
            mean=cells.shown[own],
            baseline_mean=cells.shown[other],
            difference=cells.shown[own] - cells.shown[other],
            difference_low=from_scale(centre + low, cells.scale) - cells.shown[other],
            difference_high=from_scale(centre + high, cells.scale) - cells.shown[other],
            scale=cells.scale,
            ratio=ratio[0],
            ratio_low=ratio[1],
            ratio_high=ratio[2],
            test=np.where(paired, "paired " + names, names),
            prior_df=borrowed,
            prior_deviation=np.where(borrowed > 0, np.sqrt(cells.common[own]), np.nan),
            prior_cells=cells.lenders[own],
            correlation=cells.of_pool("correlation")[own],
            error=test.error,
            df=test.df,
            p=p,
            p_holm=adjusted,
            p_equivalent=adjusted_equivalent,
            level=level,
            family=family,
            effect_size=compute_effect_size(
                test.difference, np.sqrt((cells.variance[own] + cells.variance[other]) / 2), test.df
            ),
            verdict=verdicts,
            more_seeds=_count_missing(cells, own, other, test.error, n, allowed, level, family, ~decided),
            note=_note(cells, own, other),
        )
    )


def _count_missing(
    cells: Cells,
    own: Array,
    other: Array,
    error: Array,
    n: Array,
    allowed: Array,
    level: Array,
    family: Array,
    open_: Array,
) -> Array:
    """The seeds that are missing for a finding, or for equivalence where that is nearer; 0 where it is not open."""
    missing = np.zeros(len(own))
    own, other, error, n, allowed, level, family = (
        values[open_] for values in (own, other, error, n, allowed, level, family)
    )
    difference = np.abs(cells.mean[own] - cells.mean[other])
    borrowed = np.minimum(cells.worth[own], cells.worth[other])
    variance, sides = error**2 * n, np.where(borrowed > 0, 1.0, 2.0)
    alpha = level / np.maximum(family, 1)
    found = compute_seeds_needed(difference, variance, borrowed, sides, alpha)
    room = np.maximum(allowed - difference, 0.0)
    equal = compute_seeds_needed(room, variance, borrowed, sides, 2 * alpha)
    missing[open_] = np.maximum(np.fmin(found, equal) - n, 0)
    return missing


def _by_size(groups: Array) -> list[Array]:
    """The places of each group's members as rows of matrices, one for each size of groups."""
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def _note(cells: Cells, own: Array, other: Array) -> list[str]:
    """Why cells say nothing."""
    flat, notes, shown = cells.flat, [""] * len(own), cells.shown
    variants = cells.keys["variant"].to_numpy(object)
    for number in np.flatnonzero(flat[own] | flat[other]):
        silent = [cell for cell in (own[number], other[number]) if flat[cell]]
        names = " and ".join(variants[cell] for cell in silent)
        bound = cells.scale == "logit" and all(shown[cell] in (0.0, 1.0) for cell in silent)
        why = "every seed is at the measure's bound" if bound else "equal to the last digit, likely copies of one run"
        notes[number] = f"no spread in {names}: {why}"
    return notes


def judge(measure: str, difference: float, p: float, p_equivalent: float, n: float, level: float = ALPHA) -> str:
    """What a tested difference says; a difference that is found counts also where it is inside the margin."""
    if n < 2:
        return "n = 1"
    if p < level:
        better = MEASURES[measure].better
        if better is None:
            return "different"
        return "better" if (difference < 0) == (better == "lower") else "worse"
    return "equivalent" if p_equivalent < level else "undecided"


def mark_best(best: pd.DataFrame, summary: pd.DataFrame, measure: str) -> pd.Series:
    """For each row of the summary: `best` if no other of its setting may be the best one; where several may, `among the
    best` for each of them; else nothing. The marked ones hold the true best with 95 %. One seed marks nothing.

    Args: best: BEST.
    """
    own = best.loc[best["measure"] == measure, [*CELL, "mark"]]
    keyed = summary[CELL].reset_index().merge(own, on=CELL, how="left").set_index("index")
    marks = keyed["mark"].fillna("").reindex(summary.index)
    return marks.where(summary[f"{measure}_mean"].notna(), "")  # NaN in some seed is no best


BEST = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("measure", "string", "in which it may be the best of its setting"),
    Column("n", "integer", "seeds"),
    Column("mean", "number", "over these seeds"),
    Column("probability", "number", "that it is the best, from the t distributions of the cells' means"),
    Column("mark", "string", "best, or among the best: the marked ones hold the best with 95 %; empty: it is not"),
]


def build_best(reported: pd.DataFrame) -> pd.DataFrame:
    """BEST: for FID and the Inception Score, of prior samples."""
    layout = lay_out(reported[reported["sampler"] == "prior"])
    parts = [_find_best(build_cells(layout, measure)) for measure in ("fid", "inception_score")]
    return pd.concat(parts, ignore_index=True)[[column.name for column in BEST]]


def _find_best(cells: Cells) -> pd.DataFrame:
    """BEST for the cells with two seeds or more of settings that have two such cells (Hsu 1984).

    A cell is ruled out if another is better in a one-sided test against it, at 5 % over all the others of its setting.
    The true best is ruled out with a chance of at most 5 %, whichever of them it is.
    """
    sign = -1.0 if MEASURES[cells.measure].better == "higher" else 1.0
    able = np.flatnonzero(cells.n >= 2)
    groups = [able[members] for members in _by_size(cells.setting[able]) if members.shape[1] > 1]  # (settings, C)
    marks, probability = np.full(len(cells.n), "", dtype=object), np.full(len(cells.n), np.nan)
    pairs = [np.broadcast_arrays(group[:, :, None], group[:, None, :]) for group in groups]
    own, rival = (np.concatenate([pair[side].ravel() for pair in pairs] or [able[:0]]) for side in (0, 1))
    test, _, _ = cells.test(own, rival)
    p = compute_p_above(sign * test.difference, test.error, test.df)
    end = 0
    for group in groups:
        count = group.shape[1]
        start, end = end, end + group.size * count
        against = np.where(np.eye(count, dtype=bool), np.nan, p[start:end].reshape(-1, count, count))
        ruled_out = np.fmin.reduce(against, axis=-1) * (count - 1) < ALPHA
        alone = (~ruled_out).sum(axis=-1, keepdims=True) == 1
        marks[group] = np.where(ruled_out, "", np.where(alone, "best", "among the best"))
        error = np.sqrt(cells.variance[group] / cells.n[group])
        probability[group] = _share_of_best(sign * cells.mean[group], error, cells.df[group])
    keys = {"measure": cells.measure, "n": cells.n, "mean": cells.shown, "probability": probability, "mark": marks}
    return cells.keys.assign(**keys)


def _share_of_best(mean: Array, error: Array, df: Array, points: int = 50, most: int = 500) -> Array:
    """The probability of each (D, C) to be the lowest of its row.

    By quadrature, over a grid of `points` quantiles of each cell, of which `most` are kept: each cell's mass in an
    interval, times the chance that all others are above it.
    """
    flat = ~(error > 0) | ~(df > 0)
    error, df = np.where(flat, 1e-12, error), np.where(flat, 1.0, df)
    quantiles = (np.arange(points) + 0.5) / points
    at = mean[..., None] + error[..., None] * special.stdtrit(df[..., None], quantiles)  # (D, C, points)
    grid = np.sort(at.reshape(len(mean), -1), axis=-1)
    kept = np.linspace(0, grid.shape[-1] - 1, min(most, grid.shape[-1])).round().astype(int)
    grid = grid[:, None, kept]  # (D, 1, G)
    above = special.stdtr(df[..., None], (mean[..., None] - grid) / error[..., None])  # (D, C, G)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(above, 1e-300))
    others = np.exp(logs.sum(axis=1, keepdims=True) - logs)
    edge = np.ones_like(others[..., :1])
    mass = -np.diff(above, axis=-1, prepend=edge, append=0 * edge)
    height = (np.concatenate([edge, others], axis=-1) + np.concatenate([others, 0 * edge], axis=-1)) / 2
    share = (mass * height).sum(axis=-1)
    return share / share.sum(axis=-1, keepdims=True)
