"""Statistics for a handful of seeds. Arrays in, arrays out; scipy's and statsmodels' distributions do the work.

With 2 to 5 seeds there is no choice but a t test: a rank test cannot reach p < 0.05 with them (two-sided Wilcoxon: at
best 0.25 with 3 pairs, 0.0625 with 5), a bootstrap resamples three numbers. The t test asks that what it compares be
roughly normal, so each measure is judged on its own scale (harness/measures.py): a logarithm for positive quantities,
whose spread grows with their size, a logit for shares. Where its variance comes from is moderated.py's story. One seed
gives no interval and no p; nor do scores that are equal to the last digit, which no training that differs makes.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special  # not scipy.stats: it takes 0.6 s, and every command that reads results would wait for it

from harness.errors import InputError
from harness.measures import Scale
from results.read.schema import LARGEST

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
MOST_SEEDS = 1000
MARGIN = 0.1  # relative to the baseline: differences below it count as equivalent
Array = np.ndarray


def is_sound(values: Array) -> Array:
    """Which scores are numbers to compute with: finite, and not beyond LARGEST."""
    return np.abs(np.asarray(values, float)) <= LARGEST


def to_scale(values: Array, scale: Scale, images: Array | float = 10_000) -> Array:
    """Values on the scale on which they are compared; NaN where it does not reach (the logarithm of a negative number).

    Args: images: that a share was counted over. A share at its bound (precision 1.0) has no finite logit: it counts
        as half an image away from it, the customary correction.
    """
    values = np.asarray(values, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        if scale == "log":
            return np.where(values > 0, np.log(np.where(values > 0, values, 1)), np.nan)
        if scale == "logit":
            edge = 0.5 / np.asarray(images, float)
            return np.where((values >= 0) & (values <= 1), special.logit(np.clip(values, edge, 1 - edge)), np.nan)
    return values


def from_scale(values: Array, scale: Scale) -> Array:
    """The inverse of to_scale, but for shares at their bound."""
    values = np.asarray(values, float)
    if scale == "log":
        return np.exp(values)
    return special.expit(values) if scale == "logit" else values


def require_margin(margin: float) -> None:
    """Raises: InputError if nothing could be inside the margin."""
    if not margin > 0:
        raise InputError(f"--margin {margin} leaves no room for equivalence; above 0, as in --margin 0.1 for 10 %")


def compute_margin(baseline: Array, scale: Scale, margin: float) -> Array:
    """What a difference of `margin` times the baseline is worth on the scale: the smaller of upward and downward.

    Args: baseline: its mean, as a reader sees it. margin: above 0.
    """
    baseline = np.asarray(baseline, float)
    if scale == "linear":
        return margin * np.abs(baseline)
    at = to_scale(baseline, scale)
    up = to_scale(np.where(scale == "logit", np.minimum(baseline * (1 + margin), 1), baseline * (1 + margin)), scale)
    return np.fmin(up - at, at - to_scale(baseline * (1 - margin), scale))


def compute_half_width(std: Array, n: Array) -> Array:
    """Half of the 95 % t interval of a mean from the standard deviation (n - 1) over n values; NaN below two."""
    std, n = np.asarray(std, float), np.asarray(n, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n >= 2, compute_reach(std / np.sqrt(n), np.maximum(n - 1, 1)), np.nan)


def compute_reach(error: Array, df: Array) -> Array:
    """Half of a 95 % t interval, from the standard error; NaN without degrees of freedom."""
    return special.stdtrit(df, 0.5 + CONFIDENCE / 2) * error


def compute_p(difference: Array, error: Array, df: Array) -> Array:
    """Two-sided p of a t test; NaN without a standard error: what has no spread is no evidence."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * special.stdtr(df, -np.abs(difference) / error)
    return np.where(np.asarray(error) > 0, p, np.nan)


def compute_p_above(difference: Array, error: Array, df: Array, bound: Array | float = 0.0) -> Array:
    """One-sided p of a t test that the true difference is above `bound`; NaN without a standard error."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = special.stdtr(df, (np.asarray(bound) - difference) / error)
    return np.where(np.asarray(error) > 0, p, np.nan)


def compute_p_equivalent(difference: Array, error: Array, df: Array, margin: Array) -> Array:
    """The larger p of the two one-sided tests that the true difference is inside ± margin (Schuirmann 1987)."""
    above, below = (compute_p_above(sign * np.asarray(difference), error, df, -margin) for sign in (1, -1))
    return np.maximum(above, below)


def adjust_holm(p: Array) -> Array:
    """Holm's step-down adjustment over the last axis, a family (Holm 1979): the chance of any false finding stays
    below ALPHA. A p that is NaN was not tested: it stays NaN, and does not count.

    As statsmodels' multipletests, which takes 40 ms a family where a collection has thousands; a test compares them.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, axis=-1, kind="stable")  # NaN last
    tested = (~np.isnan(p)).sum(axis=-1, keepdims=True)
    steps = np.take_along_axis(p, order, -1) * (tested - np.arange(p.shape[-1]))
    steps = np.where(np.arange(p.shape[-1]) < tested, steps, np.nan)
    adjusted = np.empty(p.shape)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1), -1)
    return adjusted


def adjust_partial(p: Array | Sequence[float], needed: int) -> float:
    """A p that at least `needed` of the hypotheses hold (partial conjunction, Benjamini & Heller 2008).

    With all of them needed it is the largest p (each is tested at 5 %), with one the smallest times their number
    (Bonferroni); valid however they depend on each other. NaN counts as 1: what was not tested cannot speak for it.
    """
    ordered = np.sort(np.nan_to_num(np.asarray(p, float), nan=1.0))
    if not 1 <= needed <= len(ordered):
        return 1.0
    return float(min(1.0, (len(ordered) - needed + 1) * ordered[needed - 1]))


def compute_effect_size(difference: Array, deviation: Array, df: Array) -> Array:
    """Hedges' g: the difference over the standard deviation of a run, times the small-sample correction
    1 - 3/(4 df - 1). NaN below two degrees of freedom (the correction leaves nothing), or without a spread.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((df >= 2) & (deviation > 0), difference / deviation * (1 - 3 / (4 * df - 1)), np.nan)


def compute_power(shift: Array, df: Array, alpha: Array) -> Array:
    """The chance that a two-sided t test finds a true difference of `shift` standard errors, and its direction."""
    from statsmodels.stats.power import ttest_power  # noqa: PLC0415 (takes 0.8 s)

    shift, df, alpha = np.broadcast_arrays(np.abs(np.asarray(shift, float)), df, alpha)
    # Beyond 30 standard errors all is found, and the noncentral t's series fails.
    with np.errstate(all="ignore"):
        power = ttest_power(np.minimum(shift, 30.0), 1.0, alpha / 2, df=np.asarray(df, float), alternative="larger")
    return np.where(np.isfinite(power), power, special.ndtr(special.stdtrit(df, alpha / 2) + shift))


def compute_seeds_needed(difference: Array, variance: Array, prior_df: Array, sides: Array, alpha: Array) -> Array:
    """The seeds of each cell at which a true difference like the one seen would be found with a chance of 0.8.

    It takes the difference and the variance as seen for the true ones, which two seeds know roughly: an order of
    magnitude, and no promise. Infinite where more than 1000 would be needed; NaN where there is no spread to go by.

    Args: variance: of the difference for one seed a cell, on the measure's scale (the sum of both cells' variances; of
            pairs, that of their difference). prior_df: degrees of freedom that it borrows. sides: the degrees of
            freedom that a further seed brings: 1 for moderated variances and pairs, 2 where two cells are pooled.
        alpha: the level of the test.
    """
    difference, variance, prior_df, sides, alpha = (
        np.asarray(part, float) for part in np.broadcast_arrays(difference, variance, prior_df, sides, alpha)
    )
    known = np.isfinite(difference) & (variance > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        d = np.where(known, np.abs(difference) / np.sqrt(variance), 1.0)
    borrowed = np.minimum(np.nan_to_num(prior_df, nan=0.0, posinf=1e4), 1e4)

    def is_enough(n: Array, where: Array) -> Array:
        shift, df = d[where] * np.sqrt(n), borrowed[where] + sides[where] * (n - 1)
        return compute_power(shift, df, alpha[where]) >= POWER

    low, high = np.full(d.shape, 1.0), np.full(d.shape, float(MOST_SEEDS))
    found = np.array(known)
    found[found] = is_enough(high[found], found)
    while (open_ := np.array(found & (high - low > 1))).any():
        middle = np.maximum(np.floor((low[open_] + high[open_]) / 2), 2)
        enough = is_enough(middle, open_)
        low[open_] = np.where(enough, low[open_], middle)
        high[open_] = np.where(enough, middle, high[open_])
    return np.where(known, np.where(found, high, np.inf), np.nan)


def compute_detectable(variance: Array, prior_df: Array, n: Array, alpha: Array) -> Array:
    """The smallest true difference, on the scale of the variance, that n seeds find with a chance of 0.8.

    Args: as compute_seeds_needed's, moderated. NaN for one seed without borrowed variance.
    """
    variance, prior_df, n, alpha = (
        np.asarray(part, float) for part in np.broadcast_arrays(variance, prior_df, n, alpha)
    )
    df = np.minimum(np.nan_to_num(prior_df, nan=0.0, posinf=1e4), 1e4) + n - 1
    low, high = np.zeros(df.shape), np.full(df.shape, 1000.0)
    for _ in range(40):
        middle = (low + high) / 2
        enough = compute_power(middle, np.maximum(df, 1), alpha) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(df > 0, high * np.sqrt(variance / n), np.nan)


def split_variance(values: Array, groups: Array) -> tuple[float, float]:
    """Standard deviations of training and of sampling, from evaluations repeated with other codes (random effects).

    Args: values (N,), groups (N,): the training run that each belongs to.
    Returns: between runs, with what the sampling adds to the runs' means taken off (0 if nothing is left), and within
        runs; NaN where there are fewer than two runs, or no run was evaluated twice.
    """
    values = np.asarray(values, float)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(members)
    means = np.bincount(members, values) / counts
    df = len(values) - len(names)
    within = ((values - means[members]) ** 2).sum() / df if df else np.nan
    if len(names) < 2:
        return np.nan, float(np.sqrt(within))
    between = means.var(ddof=1) - within * (1 / counts).mean()
    return float(np.sqrt(max(between, 0.0))) if df else np.nan, float(np.sqrt(within))
