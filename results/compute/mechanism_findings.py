"""What the rules of M1 to M6 find in the data: the paper's sayings about mechanisms, which it never measured."""

import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from harness.measures import MEASURES
from results.compute.baseline import BASELINE, compare_with, find_baselines, is_plain
from results.compute.dose import REMEDIES, build_doses, build_responses
from results.compute.findings import (
    COLLAPSED,
    PROPOSED,
    Data,
    Evidence,
    build_difference,
    build_missing,
    build_row,
)
from results.compute.statistics import compute_reach
from results.compute.summary import SETTING
from results.read.labels import format_value, label_setting

FACTOR_SCORES = ("mig", "dci", "factorvae")
MATCHES = ("prior_kl", "mmd")
SHIFTS = tuple(name for name in MEASURES if name.startswith("code_shift_"))
AT_ANY_RATE = [name for name in SETTING if name != "learning_rate"]
FEWEST_RATES = 2


def find_mapped_disentanglement(data: Data) -> Evidence:
    """M1: do latent_mapping's mapped codes score higher than the AAE's codes, which it has no others to map to?"""
    maps = data.reported["variant"] == "latent_mapping"
    mapped = {name: data.reported[name].where(~maps, data.reported[f"mapped_{name}"]) for name in FACTOR_SCORES}
    return _compare(data.reported.assign(**mapped), ["latent_mapping"], FACTOR_SCORES, "above")


def find_lower(variants: Sequence[str], measures: Sequence[str]) -> Callable[[Data], Evidence]:
    """M2, M3: are these measures of these variants below the AAE's?"""
    return lambda data: _compare(data.reported, variants, measures, "below")


def _compare(
    reported: pd.DataFrame,
    variants: Sequence[str],
    measures: Sequence[str],
    direction: Literal["below", "above"],
) -> Evidence:
    """Each measure that there is of each variant, against the AAE's; of several cells of a variant, the first's."""
    measured = [name for name in measures if reported[name].notna().any()]
    table = compare_with(reported, find_baselines(reported), measured, cautious=True)
    table = table[table["variant"].isin(variants)].drop_duplicates([*SETTING, "variant", "measure"])
    return [build_difference(row, direction) for _, row in table.iterrows()]


def find_tuned_difference(data: Data) -> Evidence:
    """M4: is equal_linear's FID below the AAE's, each at its own best learning rate?

    The first seed chooses each variant's rate, by its FID, and the others judge: whoever is lucky in the choice is not
    so in the judgement.
    """
    quantity, evidence = "FID minus AAE's, tuned", []
    for group in _choose_places(data.every_setting):
        judges: list[pd.DataFrame] = []
        rates, lacking = [], []
        for variant, rows in group.groupby("variant", sort=False):
            found = _choose_rate(rows)
            if isinstance(found, str):
                lacking.append(f"{variant}: {found}")
            else:
                rate = found["learning_rate"].iloc[0]
                rates.append(f"{'of its best trial' if pd.isna(rate) else format_value(rate)} ({variant})")
                judges.append(found)
        if lacking:
            where = group.iloc[0].copy()
            where["learning_rate"] = None
            evidence.append(build_missing(where, "equal_linear", quantity, "; ".join(lacking)))
            continue
        level = pd.concat(judges).assign(learning_rate=np.nan)  # each its own: they share a setting
        for _, row in compare_with(level, find_baselines(level), ["fid"], cautious=True).iterrows():
            difference = build_difference(row, "below")
            text = f"{difference['text']}, at learning rates {' and '.join(rates)}"
            evidence.append(difference | {"quantity": quantity, "text": text})
    return evidence


def _choose_places(every_setting: pd.DataFrame) -> list[pd.DataFrame]:
    """For each data set and size the runs, at any learning rate, of the plain AAE and of the first equal_linear, where
    there are both: of those with the paper's networks, if any, those with the most epochs, then the most runs.
    """
    prior = every_setting
    plain = prior[(prior["variant"] == BASELINE) & prior["options"].map(is_plain).astype(bool)]
    rivals = prior[prior["variant"] == "equal_linear"]
    cells = pd.concat([rows[[*AT_ANY_RATE, "variant", "options"]] for rows in (plain, rivals)])
    first = cells.drop_duplicates([*AT_ANY_RATE, "variant"])
    groups = [group for _, group in prior.merge(first).groupby(AT_ANY_RATE, dropna=False, sort=False)]
    both = [group for group in groups if group["variant"].nunique() == 2]

    def rank(group: pd.DataFrame) -> tuple[bool, int, int]:
        papers = label_setting(group.iloc[0].drop("learning_rate")) == ""
        return papers, int(group["epochs"].iloc[0]), len(group)

    best: dict[tuple[str, int], pd.DataFrame] = {}
    for group in sorted(both, key=rank):
        best[group["dataset"].iloc[0], group["image_size"].iloc[0]] = group
    return list(best.values())


def _choose_rate(rows: pd.DataFrame) -> pd.DataFrame | str:
    """Of one variant the rows of its best rate without those of the seed that chose it; or what is lacking for it.

    The seed that chooses is the first one that was trained at the most rates.
    """
    rows = rows[rows["fid"].notna()]
    if len(rows) and rows["learning_rate"].isna().all():
        return rows  # fresh seeds of the best trial of a search, which took no part in the choice
    tried = rows.groupby("seed")["learning_rate"].nunique()
    if tried.empty or tried.max() < FEWEST_RATES:
        return f"{rows['learning_rate'].nunique()} learning rates of {FEWEST_RATES} needed"
    chooser = tried.index[tried == tried.max()].min()
    rate = rows[rows["seed"] == chooser].sort_values("fid", kind="stable")["learning_rate"].iloc[0]
    return rows[(rows["learning_rate"] == rate) & (rows["seed"] != chooser)]


def find_dose_response(data: Data) -> Evidence:
    """M5: where a remedy holds sigma at several levels, does FID fall as the noise share rises?"""
    responses = build_responses(build_doses(data.reported))
    evidence = []
    for _, row in responses[(responses["response"] == "fid") & responses["dose"].isin(REMEDIES)].iterrows():
        reach = f"noise share {row['noise_low']:.3f} to {row['noise_high']:.3f}"
        place = f"{row['variant']}, {row['levels']} levels of {row['family']} ({reach})"
        quantity = "correlation of FID with the noise share"
        if row["seeds"] < 2 or not np.isfinite(row["p"]):
            evidence.append(build_missing(row, row["variant"], quantity, f"{place}: n = {row['seeds']}", row["seeds"]))
            continue
        text = (
            f"{place}: FID's correlation with it is {row['correlation']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        )
        half = row["p"] / 2
        p = (half, 1 - half) if row["correlation"] < 0 else (1 - half, half)
        numbers = {"n": row["n"], "estimate": row["correlation"], "low": row["low"], "high": row["high"]}
        evidence.append(build_row(row, row["variant"], quantity, f"{text}, n = {row['n']} runs", p, **numbers))
    return evidence


def find_interactions(data: Data) -> Evidence:
    """M6: is a technique's FID over the AAE's lower with a remedy, on both, than without? Seed by seed."""
    quantity = "FID over AAE's with a remedy, over that without"
    evidence = []
    names = data.reported[["variant", "options"]].drop_duplicates()
    parted = [_part_options(*pair) for pair in names.itertuples(index=False)]
    named = data.reported.merge(names.assign(own=[own for own, _ in parted], remedy=[on for _, on in parted]))
    # In most settings no AAE has a remedy, and to look at the cells of each would take long.
    with_remedy = named.loc[(named["remedy"] != "") & (named["variant"] == BASELINE), SETTING].drop_duplicates()
    for _, setting in named.merge(with_remedy).groupby(SETTING, dropna=False, sort=False):
        parts = setting.groupby(["variant", "own", "remedy"], sort=False)
        cells = {(str(variant), str(own), str(remedy)): rows for (variant, own, remedy), rows in parts}
        aaes = {remedy: rows for (variant, _, remedy), rows in cells.items() if variant == BASELINE}
        for (variant, own, remedy), treated in cells.items():
            if variant not in PROPOSED or not remedy or (variant, own, "") not in cells or not {remedy, ""} <= {*aaes}:
                continue
            logs = [_log_fid(rows) for rows in (treated, aaes[remedy], cells[variant, own, ""], aaes[""])]
            shift = (logs[0] - logs[1] - (logs[2] - logs[3])).dropna().to_numpy(float)
            where, name, n = setting.iloc[0], f"{variant} with {remedy}", len(shift)
            held = float(aaes[remedy]["noise_share"].mean())
            if n < 2 or held < COLLAPSED or shift.std() == 0:
                why = (
                    f"n = {n}"
                    if n < 2
                    else "no spread"
                    if held >= COLLAPSED
                    else f"the AAE's noise share is {held:.3f}"
                )
                evidence.append(build_missing(where, variant, quantity, f"{name}: {why}", n))
                continue
            mean, error = shift.mean(), shift.std(ddof=1) / np.sqrt(n)
            reach = float(compute_reach(np.asarray(error), np.asarray(n - 1.0)))
            estimate, low, high = (float(np.exp(mean + side * reach)) for side in (0, -1, 1))
            below = float(special.stdtr(n - 1, mean / error))
            text = (
                f"{name}: its FID over the AAE's is {estimate:.2f} [{low:.2f}, {high:.2f}] times that without, n = {n}"
            )
            numbers = {"n": n, "estimate": estimate, "low": low, "high": high}
            evidence.append(build_row(where, variant, quantity, text, (below, 1 - below), **numbers))
    return evidence


def _part_options(variant: str, options: str) -> tuple[str, str]:
    """A cell's own options, and what remedies are on ("": none)."""
    given = json.loads(options)
    remedies = {name: given[name] for name in REMEDIES if given.get(name)}
    head = given.get("sigma", "linear")
    if head != ("exp" if variant == "kld_loss" else "linear"):  # kld_loss's own head is exp
        remedies["sigma"] = head
    if "kl_weight" in remedies:
        remedies["kl_direction"] = given.get("kl_direction", "posterior_prior")
    own = {name: value for name, value in given.items() if name not in (*REMEDIES, "sigma", "kl_direction")}
    named = ", ".join(f"{name}={format_value(value)}" for name, value in sorted(remedies.items()))
    return json.dumps(own, sort_keys=True), named


def _log_fid(rows: pd.DataFrame) -> pd.Series:
    """By seed; a FID that is 0 or missing is left out."""
    fid = rows.set_index("seed")["fid"].astype(float)
    return fid.where(fid > 0).map(np.log, na_action="ignore")
