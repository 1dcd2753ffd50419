"""What the rules of M1 to M6 find in the data: the paper's sayings about mechanisms, which it never measured."""

import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special

from harness.measures import MEASURES
from results.compute.baseline import BASELINE, choose_published, compare_with, find_baselines, is_published
from results.compute.dose import REMEDIES
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
from results.compute.summary import CELL, SETTING
from results.compute.trials import METHOD
from results.read.labels import PAPER_OPTIONS, format_value, label_setting

FACTOR_SCORES = ("mig", "dci", "factorvae")
DISENTANGLEMENT = (*FACTOR_SCORES, "total_correlation")
MATCHES = ("prior_kl", "mmd")
MOVES = tuple(name for name in MEASURES if name.startswith(("code_shift_", "moved_l1_")))
AT_ANY_RATE = [name for name in SETTING if name != "learning_rate"]
FEWEST_RATES = 2
MOST_NOISE = 0.5  # noise share above which codes say more of the noise than of the image: another collapse
EXP_HEAD = ("sigma", "exp")
FLOORS = 2  # standard deviations of MMD^2 between samples of one distribution, within which there is no mismatch


def find_mapped_disentanglement(data: Data) -> Evidence:
    """M1: are latent_mapping's mapped codes more disentangled than the AAE's codes, which it has no others beside?"""
    known = data.reported[data.reported["mig"].notna()]  # of data with known factors
    maps = known["variant"] == "latent_mapping"
    mapped = {name: known[name].where(~maps, known[f"mapped_{name}"]) for name in DISENTANGLEMENT}
    known = known.assign(**mapped)
    return [
        *_compare(known, ["latent_mapping"], FACTOR_SCORES, "above"),
        *_compare(known, ["latent_mapping"], ["total_correlation"], "below"),
    ]


def find_nearer(data: Data) -> Evidence:
    """M2: is the aggregated posterior nearer to the prior than the AAE's? kld_loss has a sigma head of its own, and is
    held against the AAE of that head where there is one.
    """
    reported = data.reported
    aaes = reported.loc[reported["variant"] == BASELINE, CELL].drop_duplicates()
    same_head = [_part_options(BASELINE, options)[1] == (EXP_HEAD,) for options in aaes["options"]]
    controls = aaes[np.array(same_head, bool)].drop_duplicates(SETTING)
    with_control = reported.merge(controls[SETTING])
    without = reported[~reported["run_id"].isin(with_control["run_id"])]
    floors = reported[reported["variant"] == BASELINE].groupby("protocol_id")["mmd_floor"].max()
    return [
        *_compare(reported, ["n_iter"], MATCHES, "below", floors=floors),
        *_compare(without, ["kld_loss"], MATCHES, "below", floors=floors),
        *_compare(with_control, ["kld_loss"], MATCHES, "below", controls, floors),
    ]


def find_steadier(data: Data) -> Evidence:
    """M3: do feature's codes and reconstructions notice less of a move than the AAE's?"""
    return _compare(data.reported, ["feature"], MOVES, "below")


def _compare(
    reported: pd.DataFrame,
    variants: Sequence[str],
    measures: Sequence[str],
    direction: Literal["below", "above"],
    controls: pd.DataFrame | None = None,
    floors: pd.Series | None = None,
) -> Evidence:
    """Each measure that there is of each variant, against the AAE's.

    Args: controls: AAEs (CELL) to hold them against instead of the published ones; floors: of MMD, by protocol id.
    """
    measured = [name for name in measures if reported[name].notna().any()]
    references = find_baselines(reported) if controls is None else controls
    table = compare_with(reported, references, measured, cautious=True)
    table = choose_published(table[table["variant"].isin(variants)], [*SETTING, "variant", "measure"])
    reference = BASELINE if controls is None else f"{BASELINE} (sigma=exp)"
    evidence = []
    for _, row in table.iterrows():
        difference = build_difference(row, direction, reference)
        floor = np.nan if floors is None else floors.get(row["protocol_id"], np.nan)
        if row["measure"] == "mmd" and row["baseline_mean"] <= FLOORS * floor:
            text = f"{row['variant']}: the {reference}'s MMD is within its noise floor already"
            difference = build_missing(row, row["variant"], difference["quantity"], text, row["n"])
        evidence.append(difference)
    return evidence


def find_tuned_difference(data: Data) -> Evidence:
    """M4: is equal_linear's FID below the AAE's, each at its own best learning rate?

    The first seed chooses each variant's rate, by its FID, and the others judge: whoever is lucky in the choice is not
    so in the judgement.
    """
    quantity, evidence = "FID minus AAE's, tuned", []
    for place in _choose_places(data.every_setting):
        judges: list[pd.DataFrame] = []
        rates, lacking = [], []
        group, edges = _keep_common_rates(place)
        for variant in place["variant"].unique():
            found = _choose_rate(group[group["variant"] == variant])
            if isinstance(found, str):
                lacking.append(f"{variant}: {found}")
            else:
                rate = found["learning_rate"].iloc[0]
                edge = ", at the edge" if rate in edges else ""
                rates.append(f"{'of its best trial' if pd.isna(rate) else format_value(rate)} ({variant}{edge})")
                judges.append(found)
        if lacking:
            where = place.iloc[0].copy()
            where["learning_rate"] = None
            evidence.append(build_missing(where, "equal_linear", quantity, "; ".join(lacking)))
            continue
        level = pd.concat(judges).assign(learning_rate=np.nan)  # each its own: they share a setting
        for _, row in compare_with(level, find_baselines(level), ["fid"], cautious=True).iterrows():
            difference = build_difference(row, "below")
            text = f"{difference['text']}, at learning rates {' and '.join(rates)}"
            evidence.append(difference | {"quantity": quantity, "text": text})
    return evidence


def _keep_common_rates(group: pd.DataFrame) -> tuple[pd.DataFrame, list[float]]:
    """The runs at learning rates that both variants were trained at, so that none has more to choose from; and the
    lowest and the highest of these. Runs of a search's best trial have none, and all belong.
    """
    if group["learning_rate"].isna().all():
        return group, []
    tried = [{*rows["learning_rate"]} for _, rows in group[group["fid"].notna()].groupby("variant")]
    common = sorted({*group["learning_rate"]}.intersection(*tried))
    return group[group["learning_rate"].isin(common)], [*common[:1], *common[-1:]]


def _choose_places(every_setting: pd.DataFrame) -> list[pd.DataFrame]:
    """For each data set and size the runs, at any learning rate, of the AAE and of equal_linear, where there are both:
    of those with the paper's networks, if any, those with the most epochs, then the most runs.
    """
    cells = every_setting.loc[every_setting["variant"].isin([BASELINE, "equal_linear"]), [*AT_ANY_RATE, *METHOD]]
    chosen = choose_published(cells.drop_duplicates(), [*AT_ANY_RATE, "variant"])
    groups = [group for _, group in every_setting.merge(chosen).groupby(AT_ANY_RATE, dropna=False, sort=False)]
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
        return f"{rows['learning_rate'].nunique()} learning rates that both have, of {FEWEST_RATES} needed"
    chooser = tried.index[tried == tried.max()].min()
    rate = rows[rows["seed"] == chooser].sort_values("fid", kind="stable")["learning_rate"].iloc[0]
    return rows[(rows["learning_rate"] == rate) & (rows["seed"] != chooser)]


def find_cures(data: Data) -> Evidence:
    """M5: where a remedy lifts the AAE's noise share out of the collapse, is FID lower than without the remedy?

    The seeds of one level of a remedy are the replicates: another level is another question, as too much of a remedy
    drowns the image in noise.
    """
    return _find_first(data, _find_cures_within)


def _find_cures_within(setting: pd.DataFrame) -> Evidence:
    quantity, evidence = "FID with the remedy minus that without", []
    cells = {remedies: rows for (variant, _, remedies), rows in _part_cells(setting).items() if variant == BASELINE}
    for remedies, rows in cells.items():
        off = tuple(remedy for remedy in remedies if remedy == EXP_HEAD)
        reference = off if off != remedies else ()
        if not remedies or reference not in cells:
            continue
        without, own = (float(cells[key]["noise_share"].mean()) for key in (reference, remedies))
        place = f"{BASELINE} with {_name_remedies(remedies)}: noise share {own:.3f}, without {without:.3f}"
        why = (
            "nothing has collapsed"
            if without >= COLLAPSED
            else "still collapsed"
            if own < COLLAPSED
            else "more noise than image"
            if own > MOST_NOISE
            else ""
        )
        table = compare_with(setting, cells[reference][CELL].head(1), ["fid"], cautious=True)
        compared = table.merge(rows[CELL].head(1))
        if compared.empty:
            continue
        row = compared.iloc[0]
        if why:
            evidence.append(build_missing(row, BASELINE, quantity, f"{place}: {why}", row["n"]))
            continue
        named = row.copy()
        named["variant"] = f"{BASELINE} with {_name_remedies(remedies)}"
        difference = build_difference(named, "below")
        text = f"{difference['text']}, noise share {own:.3f} instead of {without:.3f}"
        evidence.append(difference | {"variant": BASELINE, "quantity": quantity, "text": text})
    return evidence


def find_interactions(data: Data) -> Evidence:
    """M6: is a technique's FID over the AAE's lower with a remedy, on both, than without? Seed by seed."""
    return _find_first(data, _find_interactions_within)


def _find_interactions_within(setting: pd.DataFrame) -> Evidence:
    quantity = "FID over AAE's with a remedy, over that without"
    evidence = []
    cells = _part_cells(setting)
    aaes = {remedies: rows for (variant, _, remedies), rows in cells.items() if variant == BASELINE}
    for (variant, own, remedies), treated in cells.items():
        # The AAE with the same remedy: of its own head if the technique is of its own, else of the same head.
        pairs = [remedies, tuple(sorted({*remedies, EXP_HEAD}))] if _head_of(variant) == "exp" else [remedies]
        partner = next((aaes[each] for each in pairs if each in aaes), None)
        if variant not in PROPOSED or not remedies:
            continue
        if partner is None or () not in aaes or (variant, own, ()) not in cells:
            continue
        logs = [_log_fid(rows) for rows in (treated, partner, cells[variant, own, ()], aaes[()])]
        shift = (logs[0] - logs[1] - (logs[2] - logs[3])).dropna().to_numpy(float)
        where, name, n = setting.iloc[0], f"{variant} with {_name_remedies(remedies)}", len(shift)
        without, held = (float(rows["noise_share"].mean()) for rows in (aaes[()], partner))
        why = (
            f"n = {n}"
            if n < 2
            else f"the AAE has not collapsed without it, its noise share is {without:.3f}"
            if without >= COLLAPSED
            else f"the AAE's noise share is {held:.3f} with it"
            if held < COLLAPSED
            else "no spread"
            if shift.std() == 0
            else ""
        )
        if why:
            evidence.append(build_missing(where, variant, quantity, f"{name}: {why}", n))
            continue
        mean, error = shift.mean(), shift.std(ddof=1) / np.sqrt(n)
        reach = float(compute_reach(np.asarray(error), np.asarray(n - 1.0)))
        estimate, low, high = (float(np.exp(mean + side * reach)) for side in (0, -1, 1))
        below = float(special.stdtr(n - 1, mean / error))
        text = f"{name}: its FID over the AAE's is {estimate:.2f} [{low:.2f}, {high:.2f}] times that without, n = {n}"
        numbers = {"n": n, "estimate": estimate, "low": low, "high": high}
        evidence.append(build_row(where, variant, quantity, text, (below, 1 - below), **numbers))
    return evidence


def _find_first(data: Data, find: Callable[[pd.DataFrame], Evidence]) -> Evidence:
    """For each data set and size the evidence of the first setting that has any that counts, or else of the first that
    has any: not all settings have remedies, and it would not do to judge the same claim by several.
    """
    cells = data.every_setting.loc[data.every_setting["variant"] == BASELINE, [*SETTING, "options"]].drop_duplicates()
    published = np.array([is_published(BASELINE, str(options)) for options in cells["options"]], bool)
    cells = cells[~published]  # most settings have no remedy
    evidence: dict[tuple[str, int], Evidence] = {}
    settings = data.every_setting.merge(cells[SETTING].drop_duplicates()).groupby(SETTING, dropna=False, sort=False)
    for _, setting in settings:
        place = setting["dataset"].iloc[0], setting["image_size"].iloc[0]
        if any(row["finding"] != "missing" for row in evidence.get(place, [])):
            continue
        found = find(setting)
        if place not in evidence or any(row["finding"] != "missing" for row in found):
            evidence[place] = found or evidence.get(place, [])
    return [row for found in evidence.values() for row in found]


Remedies = tuple[tuple[str, object], ...]


def _part_cells(setting: pd.DataFrame) -> dict[tuple[str, str, Remedies], pd.DataFrame]:
    """The runs of each variant, of its own options, and of the remedies that are on.

    Of two spellings of the same training (a kl_direction without a kl_weight) the first, so that no seed counts twice.
    """
    cells: dict[tuple[str, str, Remedies], pd.DataFrame] = {}
    for (variant, options), rows in setting.groupby(METHOD, sort=False):
        cells.setdefault((str(variant), *_part_options(str(variant), str(options))), rows)
    return cells


def _part_options(variant: str, options: str) -> tuple[str, Remedies]:
    """A cell's own options, and the remedies that are on; another head of sigma than the variant's own is one."""
    given = json.loads(options)
    remedies = {name: given[name] for name in REMEDIES if given.get(name)}
    head = given.get("sigma", "linear")
    if head != _head_of(variant):
        remedies["sigma"] = head
    if "kl_weight" in remedies:
        remedies["kl_direction"] = given.get("kl_direction", "posterior_prior")
    own = {name: value for name, value in given.items() if name not in (*REMEDIES, "sigma", "kl_direction")}
    return json.dumps(own, sort_keys=True), tuple(sorted(remedies.items()))


def _head_of(variant: str) -> str:
    return PAPER_OPTIONS.get(variant, {}).get("sigma", "linear")


def _name_remedies(remedies: Remedies) -> str:
    return ", ".join(f"{name}={format_value(value)}" for name, value in remedies)


def _log_fid(rows: pd.DataFrame) -> pd.Series:
    """By seed; a FID that is 0 or missing is left out."""
    fid = rows.set_index("seed")["fid"].astype(float)
    return fid.where(fid > 0).map(np.log, na_action="ignore")
