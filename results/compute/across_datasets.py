"""How much a variant changes a score over all data sets, with what differs between them (random effects)."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from results.compute.statistics import adjust_holm
from results.compute.summary import SETTING
from results.read.schema import CONFIGURATION, PROTOCOL_COLUMNS, Column

# What may differ between the data sets of one campaign: the paper trains and scores 64 px in smaller batches.
OF_A_DATASET = ["dataset", "image_size", "channels", "max_images", "batch_size", "protocol_id"]
SHARED = [name for name in SETTING if name not in OF_A_DATASET]
FEWEST_DATASETS = 2

_KNOWN = {column.name: column for column in [*CONFIGURATION, *PROTOCOL_COLUMNS]}
ACROSS = [
    _KNOWN["variant"],
    _KNOWN["options"],
    *(_KNOWN[name] for name in SHARED),
    Column("measure", "string", "what is compared"),
    Column("datasets", "integer", "data sets and sizes with a variant and an AAE of two seeds or more"),
    Column("names", "string", "which"),
    Column("scale", "string", "of the effect: log, logit or linear"),
    Column("effect", "number", "variant minus AAE on the scale, mean over data sets (random effects)"),
    Column("effect_low", "number", "lower end of its 95 % interval (Hartung & Knapp)"),
    Column("effect_high", "number", "upper end of its 95 % interval"),
    Column("ratio", "number", "the effect as a ratio (of odds, for shares); empty on the linear scale"),
    Column("ratio_low", "number", "lower end of its 95 % interval"),
    Column("ratio_high", "number", "upper end of its 95 % interval"),
    Column("between", "number", "standard deviation of the true effects between data sets, on the scale"),
    Column("p", "number", "that there is no effect: t test with one degree of freedom fewer than data sets"),
    Column("p_holm", "number", "adjusted over the variants of the campaign"),
]


def build_across(comparisons: pd.DataFrame) -> pd.DataFrame:
    """ACROSS: a row for each variant and measure that was compared with the AAE on two data sets or more."""
    tested = comparisons[comparisons["error"] > 0]
    tested = tested.drop_duplicates(["dataset", "image_size", "variant", "options", *SHARED, "measure"])
    effects = np.where(tested["scale"] == "linear", tested["difference"], np.log(tested["ratio"].astype(float)))
    tested = tested.assign(effect=effects)
    rows = []
    keys = ["variant", "options", *SHARED, "measure", "scale"]
    for key, group in tested.groupby(keys, dropna=False, sort=False):
        if len(group) < FEWEST_DATASETS:
            continue
        found = combine(group["effect"].to_numpy(float), group["error"].to_numpy(float))
        names = ", ".join(f"{name} {size} px" for name, size in zip(group["dataset"], group["image_size"], strict=True))
        ratio = {} if key[-1] == "linear" else {f"ratio{end}": np.exp(found[f"effect{end}"]) for end in ENDS}
        rows.append(dict(zip(keys, key, strict=True)) | found | ratio | {"datasets": len(group), "names": names})
    table = pd.DataFrame(rows).reindex(columns=[column.name for column in ACROSS])
    adjusted = table.groupby([*SHARED, "measure"], dropna=False)["p"].transform(
        lambda p: adjust_holm(p.to_numpy(float))
    )
    return table.assign(p_holm=adjusted.astype(float) if len(table) else None)


ENDS = ("", "_low", "_high")


def combine(effects: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """The mean effect over data sets (random effects: Paule & Mandel's variance between them), its interval and p by
    Hartung & Knapp, and the standard deviation between the data sets.

    Args: effects, errors (k,): with their standard errors, k at least 2.
    """
    from statsmodels.stats.meta_analysis import combine_effects  # noqa: PLC0415 (takes 0.8 s)

    result: Any = combine_effects(effects, errors**2, method_re="iterated", use_t=True)
    low, high = result.conf_int(use_t=True)[3]  # the random effects' with Hartung & Knapp's scale
    mean, error = float(result.mean_effect_re), float(result.sd_eff_w_re_hksj)
    p = 2 * special.stdtr(len(effects) - 1, -abs(mean) / error) if error > 0 else np.nan
    return {
        "effect": mean,
        "effect_low": float(low),
        "effect_high": float(high),
        "between": float(np.sqrt(max(result.tau2, 0.0))),
        "p": float(p),
    }
