"""Dose and response of the collapse: what becomes of the samples as a remedy holds sigma at several levels.

A dose is one number that runs of otherwise equal settings have at three levels or more: the strength of a remedy, the
learning rate, the dimensions of the code. What it does to sigma is measured, as the noise share; the response is read
against that. Correlations are Spearman's, over the means of the levels: seeds of one level are no replicates of others,
and to count each run would find a correlation wherever levels differ for whatever reason.
"""

import json
import math
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import special

from results.compute.statistics import CONFIDENCE, Array
from results.compute.summary import CELL
from results.read.labels import LABEL_COLUMNS, add_label
from results.read.schema import Column

REMEDIES = ("sigma_floor", "sigma_penalty", "log_variance_penalty", "kl_weight")  # options that hold sigma up
SETTINGS = ("learning_rate", "latent_dim")  # doses too: sigma depends on them
FEWEST_LEVELS = 3
EXACT = 7  # levels up to which p counts all permutations
# The response, as the tables have it: its title, and whether more of it is better.
RESPONSES = {
    "fid": ("FID", False),
    "fid_reconstruction": ("FID of reconstructions", False),
    "fid_excess": ("FID beyond reconstructions'", False),
    "recall": ("recall", True),
    "prior_kl": ("prior KL", False),
    "mmd": ("MMD^2", False),
}
_PLACE = [
    Column("variant", "string", "what was trained"),
    Column("dose", "string", "the number that differs: an option's name, learning_rate or latent_dim"),
    Column("family", "string", "the dose, with the other remedies that all runs share"),
    Column("options", "string", "the other options, JSON"),
    Column("dataset", "string", "training set"),
    Column("image_size", "integer", "px"),
    Column("epochs", "integer", "training budget"),
    *LABEL_COLUMNS,
    Column("protocol", "string", "how the scores were taken"),
    Column("protocol_id", "string", "of the scores"),
    Column("extractor", "string", "likewise"),
]
DOSE = [
    *_PLACE,
    Column("level", "number", "of the dose"),
    Column("run_id", "string", "the run"),
    Column("seed", "integer", "of the training"),
    Column("noise_share", "number", "E[sigma^2] / (Var(mu) + E[sigma^2]) at the reported epoch"),
    Column("fid", "number", "of prior samples"),
    Column("fid_reconstruction", "number", "of posterior samples of the training images: the decoder's own error"),
    Column("fid_excess", "number", "fid minus fid_reconstruction: the mismatch of prior and posterior, seen in images"),
    Column("recall", "number", "of prior samples"),
    Column("prior_kl", "number", "the mismatch in codes: KL of the aggregated posterior's Gaussian fit, nats"),
    Column("mmd", "number", "likewise: MMD^2, where mechanisms were measured"),
]
DOSE_RESPONSE = [
    *_PLACE,
    Column("response", "string", "fid, fid_reconstruction, fid_excess, recall, prior_kl or mmd"),
    Column("levels", "integer", "of the dose"),
    Column("seeds", "integer", "runs of the level that has the fewest"),
    Column("n", "integer", "runs"),
    Column("noise_low", "number", "the lowest mean noise share of a level"),
    Column("noise_high", "number", "the highest"),
    Column("correlation", "number", "Spearman's, of the response with the noise share, over the levels' means"),
    Column("low", "number", "lower end of its 95 % interval (Bonett & Wright 2000); empty below 4 levels"),
    Column("high", "number", "upper end"),
    Column("p", "number", "two-sided, that there is none: all permutations up to 7 levels, else a t test"),
]
FAMILY = [column.name for column in _PLACE]


def build_doses(reported: pd.DataFrame) -> pd.DataFrame:
    """DOSE: a row for each run of each family; a run without a remedy is the lowest level of several.

    Args: reported: rows of finished runs at their reported epoch.
    """
    prior = reported[(reported["sampler"] == "prior") & reported["noise_share"].notna()]
    run = ["run_id", "epochs", "protocol_id"]
    others = reported.loc[reported["sampler"] == "reconstruction", [*run, "fid"]]
    points = prior.merge(others.rename(columns={"fid": "fid_reconstruction"}), on=run, how="left")
    points = points.assign(fid_excess=points["fid"] - points["fid_reconstruction"])
    parts = [part for dose in (*REMEDIES, *SETTINGS) for part in _find_families(points, dose)]
    columns = [column.name for column in DOSE]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _find_families(points: pd.DataFrame, dose: str) -> Iterator[pd.DataFrame]:
    """The rows of each group of runs that differ in this dose and nothing else, where it takes three levels or more."""
    if dose in SETTINGS:
        levels, others = points[dose].astype(float), points["options"]
    else:
        parsed = {text: json.loads(text) for text in points["options"].unique()}
        levels = (
            points["options"].map({text: options.pop(dose, None) for text, options in parsed.items()}).astype(float)
        )
        others = points["options"].map({text: json.dumps(options, sort_keys=True) for text, options in parsed.items()})
    if levels.isna().all():
        return
    own = points.assign(dose=dose, level=levels, options=others)[levels.notna()]
    number = own.groupby([name for name in CELL if name != dose], dropna=False, sort=False).ngroup()
    # Most groups of a large collection are no family, and to make a frame of each would take seconds.
    is_family = own["level"].groupby(number).transform("nunique") >= FEWEST_LEVELS
    for _, family in own[is_family].groupby(number[is_family], sort=False):
        named = add_label(dose, _name_remedies(json.loads(family["options"].iloc[0])))
        without = {dose: None} if dose in SETTINGS else {}
        yield family.sort_values("level", kind="stable").assign(family=named, **without)


def _name_remedies(options: dict[str, object]) -> str:
    """What of the remedies is on, as in "sigma=exp, sigma_floor=0.1"; nothing where none is."""
    head = ["sigma=exp"] if options.get("sigma") == "exp" else []
    return ", ".join([*head, *(f"{name}={options[name]:g}" for name in REMEDIES if options.get(name))])


def build_responses(doses: pd.DataFrame) -> pd.DataFrame:
    """DOSE_RESPONSE: how each response goes with the noise share in each family."""
    rows = []
    for place, family in doses.groupby(FAMILY, dropna=False, sort=False):
        for response in RESPONSES:
            measured = family.dropna(subset=[response])
            if measured["level"].nunique() < FEWEST_LEVELS:
                continue
            means = measured.groupby("level")[["noise_share", response]].mean()
            noise, values = (means[name].to_numpy(float) for name in means)
            correlation, low, high, p = correlate(noise, values)
            rows.append(
                dict(zip(FAMILY, place, strict=True))
                | {
                    "response": response,
                    "levels": measured["level"].nunique(),
                    "seeds": measured.groupby("level").size().min(),
                    "n": len(measured),
                    "noise_low": noise.min(),
                    "noise_high": noise.max(),
                    "correlation": correlation,
                    "low": low,
                    "high": high,
                    "p": p,
                }
            )
    return pd.DataFrame(rows, columns=[column.name for column in DOSE_RESPONSE])


def correlate(x: Array, y: Array) -> tuple[float, float, float, float]:
    """Spearman's correlation, its 95 % interval and its two-sided p; NaN where one of the two never varies.

    The interval is Fisher's with the standard error sqrt((1 + r^2 / 2) / (n - 3)) (Bonett & Wright 2000); that of a
    perfect order is that of the order with two neighbours swapped, up to 1.
    """
    n = len(x)
    ranks = [pd.Series(each).rank().to_numpy() for each in (x, y)]
    if n < 3 or any(np.ptp(each) == 0 for each in ranks):
        return np.nan, np.nan, np.nan, np.nan
    r = float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1, 1))
    low = high = np.nan
    if n > 3:
        most = 1 - 12 / (n**3 - n)  # the next below a perfect order, of which Fisher's transform is infinite
        inside = np.clip(r, -most, most)
        reach = special.ndtri(0.5 + CONFIDENCE / 2) * math.sqrt((1 + r**2 / 2) / (n - 3))
        low, high = (float(np.tanh(np.arctanh(inside) + side * reach)) for side in (-1, 1))
        low, high = min(low, r), max(high, r)
    if n <= EXACT:
        orders = np.array([*permutations(ranks[1])]) - ranks[1].mean()
        all_of_them = orders @ (ranks[0] - ranks[0].mean())
        seen = abs((ranks[0] - ranks[0].mean()) @ (ranks[1] - ranks[1].mean()))
        p = float((np.abs(all_of_them) >= seen - 1e-9).mean())
    else:
        with np.errstate(divide="ignore"):
            p = float(2 * special.stdtr(n - 2, -abs(r) * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-300))))
    return r, low, high, p
