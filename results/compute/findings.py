"""What the claims' rules find in the data: rows of numbers, each with the one-sided p of being for and against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from harness.measures import MEASURES
from results.compute.baseline import BASELINE, choose_published, compare_with
from results.compute.cells import build_cells, compute_variances, lay_out
from results.compute.moderated import estimate_prior
from results.compute.statistics import ALPHA, MARGIN, compute_p_above, compute_reach, from_scale
from results.compute.summary import CELL, SETTING
from results.read.labels import NEUTRAL, Row, name_place

Finding = Literal["for", "against", "open", "missing"]
Evidence = list[dict[str, object]]
PROPOSED = ["latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]
COLLAPSED = 0.05  # noise share below which the record's own verdict is variance collapse
TURN = 20  # the epoch after which FID is said to flatten
FLAT = 0.25  # ... which it does if it then falls at less than this share of its earlier pace
EVERYWHERE = 3  # settings (of the paper's six) without which nothing holds "everywhere"
NEARLY = 0.8  # of the comparisons: nearly everywhere


@dataclass(frozen=True)
class Data:
    """What rules see, of the main settings' prior samples: `runs` at all epochs, `reported`, FID's `comparisons`.

    `every_setting`: prior samples at the reported epoch of all settings, those first that a claim prefers to judge by.
    """

    runs: pd.DataFrame
    reported: pd.DataFrame
    comparisons: pd.DataFrame
    every_setting: pd.DataFrame


def build_row(where: Row, variant: str, quantity: str, text: str, p: tuple[float, float], **numbers: object) -> dict:
    """A row of evidence. `p`: one-sided, of being for and against; NaN (not tested) is neither."""
    place = {name: where[name] for name in ("dataset", "image_size", "epochs", *NEUTRAL, "protocol_id")}
    p_for, p_against = (1.0 if np.isnan(value) else float(value) for value in p)
    finding: Finding = "for" if p_for < ALPHA else "against" if p_against < ALPHA else "open"
    return {
        **place,
        "variant": variant,
        "quantity": quantity,
        "finding": finding,
        "p_for": p_for,
        "p_against": p_against,
        "text": f"{name_place(where)}: {text}",
    } | numbers


def build_missing(where: Row, variant: str, quantity: str, text: str, n: float = 0) -> dict:
    """A row of evidence that there is too little of."""
    row = build_row(where, variant, quantity, text, (np.nan, np.nan), n=n)
    return row | {"finding": "missing", "p_for": np.nan, "p_against": np.nan}


def find_collapse(data: Data) -> Evidence:
    """C1: is the AAE's noise share below 5 % at the end?"""
    found = []
    plain = data.comparisons["baseline_options"].unique()
    layout = lay_out(data.reported)
    cells = build_cells(layout, "noise_share")
    prior = data.runs[data.runs["sampler"] == "prior"]
    first = prior[prior["epoch"] == 0].groupby("run_id")["sigma_mean"].mean()
    own = layout.keys["variant"].eq(BASELINE) & (layout.keys["options"].isin(plain) | (len(plain) == 0))
    error = np.where(cells.own > 0, np.sqrt(cells.least(cautious=True) / np.maximum(cells.n, 1)), np.nan)
    reach = compute_reach(error, cells.df)
    above = compute_p_above(cells.mean, error, cells.df, special.logit(COLLAPSED))
    for number in np.flatnonzero(own & (cells.n > 0)):
        rows = layout.rows[layout.cell == number]
        keys, n = layout.keys.iloc[number], int(cells.n[number])
        epochs, start = int(keys["epochs"]), first.reindex(rows["run_id"]).mean()
        text = f"mean sigma {start:.3f} before and {rows['sigma_mean'].mean():.3f} after {epochs} epochs, noise share "
        mean = float(cells.shown[number])
        if n < 2:
            found.append(build_missing(keys, BASELINE, "noise_share at the end", f"{text}{mean:.3f}, n = {n}", n))
            continue
        low, high = (float(from_scale(cells.mean[number] + side * reach[number], cells.scale)) for side in (-1, 1))
        # What has not converged cannot show that its limit is not 0.
        p = (1 - above[number], above[number] if epochs >= TURN else np.nan)
        text += f"{mean:.3f} [{low:.3f}, {high:.3f}], n = {n}"
        numbers = {"n": n, "estimate": mean, "low": low, "high": high}
        found.append(build_row(keys, BASELINE, "noise_share at the end", text, p, **numbers))
    return found


def find_flattening(data: Data) -> Evidence:
    """C2: the pace of FID's fall after epoch 20 over that before."""
    found, quantity = [], "pace after epoch 20 / before"
    prior = data.runs[(data.runs["sampler"] == "prior") & data.runs["fid"].notna()]
    runs = _measure_paces(prior)
    groups = runs.groupby(CELL, dropna=False, sort=False)
    if not len(runs):
        return []
    places = runs.drop_duplicates(CELL)[CELL].to_dict("records")  # in the groups' order
    number, pace = groups.ngroup().to_numpy(), runs["pace"].to_numpy(float)
    known = ~np.isnan(pace)
    number, pace, count = number[known], pace[known], len(places)
    n = np.bincount(number, minlength=count).astype(float)
    finite = np.bincount(number, ~np.isfinite(pace), minlength=count) == 0
    with np.errstate(invalid="ignore"):
        mean = np.bincount(number, pace, minlength=count) / n
        own = np.where(finite & (n >= 2), compute_variances(pace, number, mean, n), np.nan)
    shared = estimate_prior(np.nan_to_num(own), np.where(finite, np.maximum(n - 1, 0), 0))
    variance, df = shared.squeeze(own, np.maximum(n - 1, 0), cautious=True)
    error = np.where(own > 0, np.sqrt(variance / np.maximum(n, 1)), np.nan)
    reach = compute_reach(error, df)
    above = compute_p_above(mean, error, df, FLAT)
    for where, seeds, runs_of, *numbers in zip(places, n, groups.size(), mean, reach, above, strict=True):
        variant = where["variant"]
        if seeds < 2:
            text = f"{variant}: {where['epochs']} epochs, {runs_of} seeds (of {2 * TURN} and 2 needed)"
            found.append(build_missing(where, variant, quantity, text, seeds))
            continue
        centre, half, p = numbers
        low, high = centre - half, centre + half
        text = f"{variant}: FID's pace after epoch {TURN} is {centre:.2f} [{low:.2f}, {high:.2f}] of "
        text += f"that before, n = {int(seeds)}"
        estimate = {"n": seeds, "estimate": centre, "low": low, "high": high}
        found.append(build_row(where, variant, quantity, text, (1 - p, p), **estimate))
    return found


def _measure_paces(prior: pd.DataFrame) -> pd.DataFrame:
    """The first row of each run with its `pace`; NaN where it was too short, or not evaluated about the turn."""
    ordered = prior.sort_values(["run_id", "epoch"], kind="stable")
    distance = (ordered["epoch"] - TURN).abs()
    nearest = distance.groupby(ordered["run_id"], sort=False).idxmin()
    first, turn, last = (
        rows.set_index("run_id")[["epoch", "fid"]]
        for rows in (
            ordered.drop_duplicates("run_id"),
            ordered.loc[nearest],
            ordered.drop_duplicates("run_id", keep="last"),
        )
    )
    early = (first["fid"] - turn["fid"]) / turn["epoch"]
    late = (turn["fid"] - last["fid"]) / (last["epoch"] - turn["epoch"])
    near = (turn["epoch"] - TURN).abs() <= TURN / 4
    usable = (first["epoch"] == 0) & near & (last["epoch"] >= 2 * TURN)
    pace = (late / early).where(early > 0, np.inf).where(usable)
    runs = prior.drop_duplicates("run_id")
    return runs.assign(pace=runs["run_id"].map(pace))


def build_difference(
    row: pd.Series, direction: Literal["below", "above"], reference: str = BASELINE, p_for: float | None = None
) -> dict:
    """Evidence that a measure of the variant is below, or above, its reference's; `p_for` where less is enough."""
    measure = MEASURES[str(row["measure"])]
    quantity = f"{measure.title} minus {'AAE' if reference == BASELINE else reference}'s"
    difference, low, high = (
        f"{row[name] * measure.factor:+.{measure.digits}f}"
        for name in ("difference", "difference_low", "difference_high")
    )
    text = f"{row['variant']} - {reference} = {difference} {measure.column_title}, n = {int(row['n'])}"
    if row["verdict"] == "n = 1":
        return build_missing(row, row["variant"], quantity, text, row["n"])
    text += f" [{low}, {high}], Holm p = {row['p_holm']:.3g}"
    numbers = {"low": row["difference_low"], "high": row["difference_high"], "estimate": row["difference"]}
    below, above = one_sided(row)
    p = (below, above) if direction == "below" else (above, below)
    p = p if p_for is None else (p_for, p[1])
    return build_row(row, row["variant"], quantity, text, p, n=row["n"], p_holm=row["p_holm"], **numbers)


def one_sided(row: pd.Series) -> tuple[float, float]:
    """The p of the variant's FID being below its reference's, and above; NaN where there was no test."""
    half = row["p"] / 2
    return (half, 1 - half) if row["ratio"] < 1 or row["difference"] < 0 else (1 - half, half)


def _fid(data: Data, variants: Sequence[str], datasets: Sequence[str] | None = None) -> pd.DataFrame:
    """Comparisons of FID; where a setting has several cells of a variant, that with the paper's options."""
    table = data.comparisons
    table = table[(table["measure"] == "fid") & table["variant"].isin(variants)]
    table = table[table["dataset"].isin(datasets)] if datasets is not None else table
    return choose_published(table, [*SETTING, "variant"])


def find_help(variant: str, dataset: str) -> Callable[[Data], Evidence]:
    """C3, C5: is the variant's FID below the AAE's?"""

    def find(data: Data) -> Evidence:
        return [build_difference(row, "below") for _, row in _fid(data, [variant], [dataset]).iterrows()]

    return find


def find_most_help(data: Data) -> Evidence:
    """C4: on both data sets, is n_iter's FID below the AAE's, and no other proposal's below n_iter's by the margin?"""
    found = []
    for dataset in ("mnist", "fashion_mnist"):
        own = _fid(data, ["n_iter"], [dataset])
        if own.empty:
            nowhere = pd.Series({"dataset": dataset, "image_size": 32, "epochs": None, "protocol_id": None, **NEUTRAL})
            found.append(build_missing(nowhere, "n_iter", "FID minus AAE's", "not trained with the AAE"))
        for _, row in own.iterrows():
            found.append(build_difference(row, "below"))
            cell = pd.DataFrame([row[CELL]]).astype(data.reported[CELL].dtypes.to_dict())
            rivals = compare_with(data.reported, cell, ["fid"], cautious=True)
            for _, rival in rivals[rivals["variant"].isin(PROPOSED) & (rivals["n"] >= 2)].iterrows():
                found.append(build_difference(rival, "above", "n_iter", _p_not_below(rival)))
    return found


def _p_not_below(row: pd.Series) -> float:
    """The p that a rival's FID is not below its reference's by MARGIN or more."""
    bound = np.log1p(-MARGIN) if row["scale"] == "log" else -MARGIN * abs(row["baseline_mean"])
    difference = np.log(row["ratio"]) if row["scale"] == "log" else row["difference"]
    return float(np.nan_to_num(compute_p_above(difference, row["error"], row["df"], bound), nan=1.0))


def find_harm(data: Data) -> Evidence:
    """C6: is the FID of feature and of equal_linear above the AAE's?"""
    return [build_difference(row, "above") for _, row in _fid(data, ["feature", "equal_linear"]).iterrows()]


def find_exceptions(data: Data) -> Evidence:
    """C7: for each proposal, is its FID above the AAE's in some setting?"""
    found = []
    for variant in PROPOSED:
        rows = _fid(data, [variant])
        rows = rows[rows["n"] >= 2]
        if len(rows) < EVERYWHERE:
            text = f"{variant} beside the AAE with two seeds or more: {len(rows)} of {EVERYWHERE} data settings"
            found.append({"variant": variant, "quantity": "FID minus AAE's", "finding": "missing", "text": text})
            continue
        found += [build_difference(row, "above") for _, row in rows.iterrows()]
    return found
