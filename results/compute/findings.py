"""What the claims' rules find in the data: rows of numbers, each with a finding for or against."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from results.compute.baseline import BASELINE, compare_paired
from results.compute.statistics import ALPHA, compute_half_width
from results.compute.summary import CELL, SETTING
from results.read.labels import NEUTRAL, name_place

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
    """What rules look at, of the main settings' prior samples: `runs` of all epochs, `reported` and `comparisons`."""

    runs: pd.DataFrame
    reported: pd.DataFrame
    comparisons: pd.DataFrame


def _row(where: pd.Series, variant: str, quantity: str, finding: Finding, text: str, **numbers: object) -> dict:
    place = {name: where[name] for name in ("dataset", "image_size", "epochs", *NEUTRAL, "protocol_id")}
    return {
        **place,
        "variant": variant,
        "quantity": quantity,
        "finding": finding,
        "text": f"{name_place(where)}: {text}",
    } | numbers


def _interval(values: pd.Series) -> tuple[int, float, float, float]:
    numbers = values.dropna().to_numpy(float)
    half = float(compute_half_width(numbers.std(ddof=1), np.asarray(len(numbers)))) if len(numbers) > 1 else np.nan
    mean = float(numbers.mean()) if len(numbers) else np.nan
    return len(numbers), mean, mean - half, mean + half


def find_collapse(data: Data) -> Evidence:
    """C1: is the AAE's noise share below 5 % at the end?"""
    found = []
    plain = data.comparisons["baseline_options"].unique()
    ends = data.reported[data.reported["variant"] == BASELINE]
    ends = ends[ends["options"].isin(plain)] if len(plain) else ends
    for _, rows in ends.groupby(CELL, dropna=False, sort=False):
        n, mean, low, high = _interval(rows["noise_share"])
        epochs = int(rows["epochs"].iloc[0])
        first = data.runs[data.runs["run_id"].isin(rows["run_id"]) & (data.runs["sampler"] == "prior")]
        start = first.loc[first["epoch"] == 0, "sigma_mean"].mean()
        finding: Finding = "open"
        if n < 2:
            finding = "missing"
        elif high < COLLAPSED:
            finding = "for"
        elif low > COLLAPSED:
            finding = "against" if epochs >= TURN else "open"  # what has not converged cannot show its limit
        text = (
            f"mean sigma {start:.3f} before and {rows['sigma_mean'].mean():.3f} after {epochs} epochs, noise share "
            f"{mean:.3f} [{low:.3f}, {high:.3f}], n = {n}"
        )
        numbers = {"n": n, "estimate": mean, "low": low, "high": high}
        found.append(_row(rows.iloc[0], BASELINE, "noise_share at the end", finding, text, **numbers))
    return found


def find_flattening(data: Data) -> Evidence:
    """C2: the pace of FID's fall after epoch 20 over that before."""
    found = []
    prior = data.runs[(data.runs["sampler"] == "prior") & data.runs["fid"].notna()]
    runs = _measure_paces(prior)
    for _, cell in runs.groupby(CELL, dropna=False, sort=False):
        n, mean, low, high = _interval(cell["pace"])
        where, variant = cell.iloc[0], str(cell["variant"].iloc[0])
        if n < 2:
            text = f"{variant}: {where['epochs']} epochs, {cell['run_id'].nunique()} seeds (of {2 * TURN} and 2 needed)"
            found.append(_row(where, variant, "pace after epoch 20 / before", "missing", text, n=n))
            continue
        finding: Finding = "for" if high < FLAT else "against" if low > FLAT else "open"
        text = f"{variant}: FID's pace after epoch {TURN} is {mean:.2f} [{low:.2f}, {high:.2f}] of that before, n = {n}"
        numbers = {"n": n, "estimate": mean, "low": low, "high": high}
        found.append(_row(where, variant, "pace after epoch 20 / before", finding, text, **numbers))
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


def _difference(row: pd.Series, better: Finding, worse: Finding) -> dict[str, object]:
    found: dict[str, Finding] = {"better": better, "worse": worse, "n = 1": "missing"}
    finding: Finding = found.get(row["verdict"], "open")
    text = f"{row['variant']} - aae = {row['difference']:+.2f} FID, n = {int(row['n'])}"
    if row["n"] >= 2:
        text += f" [{row['difference_low']:+.2f}, {row['difference_high']:+.2f}], Holm p = {row['p_holm']:.3g}"
    numbers = {"low": row["difference_low"], "high": row["difference_high"], "estimate": row["difference"]}
    return _row(row, row["variant"], "FID minus AAE's", finding, text, n=row["n"], p_holm=row["p_holm"], **numbers)


def _fid(data: Data, variants: Sequence[str], datasets: Sequence[str] | None = None) -> pd.DataFrame:
    """Comparisons of FID; where a setting has several cells of a variant, the first."""
    table = data.comparisons
    table = table[(table["measure"] == "fid") & table["variant"].isin(variants)]
    table = table[table["dataset"].isin(datasets)] if datasets is not None else table
    return table.drop_duplicates([*SETTING, "variant"])


def find_help(variant: str, dataset: str) -> Callable[[Data], Evidence]:
    """C3, C5: is the variant's FID below the AAE's?"""

    def find(data: Data) -> Evidence:
        return [_difference(row, "for", "against") for _, row in _fid(data, [variant], [dataset]).iterrows()]

    return find


def find_most_help(data: Data) -> Evidence:
    """C4: on both data sets, is n_iter's FID below the AAE's, and no other proposal's below n_iter's?"""
    found = []
    for dataset in ("mnist", "fashion_mnist"):
        own = _fid(data, ["n_iter"], [dataset])
        if own.empty:
            nowhere = pd.Series({"dataset": dataset, "image_size": 32, "epochs": None, "protocol_id": None, **NEUTRAL})
            found.append(_row(nowhere, "n_iter", "FID minus AAE's", "missing", "not trained with the AAE"))
        for _, row in own.iterrows():
            found.append(_difference(row, "for", "against"))
            cell = pd.DataFrame([row[CELL]]).astype(data.reported[CELL].dtypes.to_dict())
            rivals = compare_paired(data.reported, cell, ["fid"])
            rivals = rivals[rivals["variant"].isin(PROPOSED)]
            for _, rival in rivals[(rivals["p_holm"] < ALPHA) & (rivals["difference"] < 0)].iterrows():
                text = f"{rival['variant']} - n_iter = {rival['difference']:+.2f} FID, Holm p = {rival['p_holm']:.3g}"
                numbers = {"n": rival["n"], "estimate": rival["difference"], "p_holm": rival["p_holm"]}
                numbers |= {"low": rival["difference_low"], "high": rival["difference_high"]}
                found.append(_row(rival, rival["variant"], "FID minus n_iter's", "against", text, **numbers))
    return found


def find_harm(data: Data) -> Evidence:
    """C6: is the FID of feature and of equal_linear above the AAE's?"""
    return [_difference(row, "against", "for") for _, row in _fid(data, ["feature", "equal_linear"]).iterrows()]


def find_exceptions(data: Data) -> Evidence:
    """C7: for each proposal, a setting where it is worse than the AAE; one better in all settings refutes."""
    found = []
    for variant in PROPOSED:
        rows = _fid(data, [variant])
        rows = rows[rows["n"] >= 2]
        if len(rows) < EVERYWHERE:
            text = f"{variant} beside the AAE with two seeds or more: {len(rows)} of {EVERYWHERE} data settings"
            found.append({"variant": variant, "quantity": "FID minus AAE's", "finding": "missing", "text": text})
            continue
        worse = rows[rows["verdict"] == "worse"]
        if len(worse):
            found += [_difference(row, "open", "for") for _, row in worse.iterrows()]
        else:
            always = (rows["verdict"] == "better").all()
            found += [_difference(row, "against" if always else "open", "for") for _, row in rows.iterrows()]
    return found
