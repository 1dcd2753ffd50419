"""Statistics for a handful of seeds. Arrays in, arrays out; scipy's distributions do the work.

With 3 to 5 seeds there is no choice but a t test: a rank test cannot reach p < 0.05 with them (two-sided Wilcoxon: at
best 0.25 with 3 pairs, 0.0625 with 5), a bootstrap resamples three numbers. The t test asks that differences be roughly
normal, which so few cannot show; it is honest in width (the 95 % interval of 3 seeds is 4.3 standard errors wide, where
1.96 would be of many), and one outlier makes it wider, not significant. Runs of the same seed are compared as pairs,
since they share the order of the batches and the noise. One seed gives no interval and no p.
"""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
MOST_SEEDS = 1000
Array = np.ndarray


def compute_half_width(std: Array, n: Array) -> Array:
    """Half of the 95 % t interval of a mean from the standard deviation (n - 1) over n values; NaN below two."""
    std, n = np.asarray(std, float), np.asarray(n, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n >= 2, stats.t.ppf(0.5 + CONFIDENCE / 2, np.maximum(n - 1, 1)) * std / np.sqrt(n), np.nan)


def compute_p(mean: Array, std: Array, n: Array) -> Array:
    """Two-sided p of the paired t test, from mean and standard deviation of n differences; NaN below two.

    Differences that are all the same have no spread to test against: p is 1 where they are 0, and else 0.
    """
    mean, std, n = (np.asarray(values, float) for values in (mean, std, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(mean) / (std / np.sqrt(n))
        p = 2 * stats.t.sf(t, np.maximum(n - 1, 1))
    p = np.where(std == 0, np.where(mean == 0, 1.0, 0.0), p)
    return np.where(n >= 2, p, np.nan)


def adjust_holm(p: Array) -> Array:
    """Holm's step-down adjustment over one family (Holm 1979): the chance of any false finding stays below ALPHA.

    A p that is NaN was not tested: it stays NaN, and does not count.
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else steps
    return adjusted


def compute_effect_size(mean: Array, std: Array, n: Array) -> Array:
    """Hedges' g of paired differences: mean over standard deviation, times the small-sample correction 1 - 3/(4df - 1).

    NaN below three pairs (the correction leaves nothing of two), or where the differences have no spread.
    """
    mean, std, n = (np.asarray(values, float) for values in (mean, std, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((n >= 3) & (std > 0), mean / std * (1 - 3 / (4 * (n - 1) - 1)), np.nan)


def compute_power(d: Array, n: Array, alpha: Array) -> Array:
    """The two-sided paired t test's chance to find a difference of `d` standard deviations with n pairs."""
    df, shift = n - 1, np.abs(d) * np.sqrt(n)
    critical = stats.t.isf(alpha / 2, df)
    with np.errstate(all="ignore"):
        exact = stats.nct.sf(critical, df, shift)
    # Where the noncentral t's series fails (far shifts, many pairs) the normal distribution is as good.
    found = np.where(np.isfinite(exact), exact, stats.norm.sf(critical - shift))
    return np.clip(found + stats.t.sf(critical + shift, df), 0, 1)


def compute_seeds_needed(mean: Array, std: Array, n: Array, alpha: Array) -> Array:
    """The pairs at which a difference like the one seen would be found with a chance of 0.8, tested at `alpha`.

    It takes the difference and its spread as seen for the true ones, which 3 seeds know roughly: an order of magnitude,
    and no promise. Infinite where more than 1000 would be needed; NaN where there is no spread to go by.
    """
    mean, std, n = (np.asarray(values, float) for values in (mean, std, n))
    alpha = np.broadcast_to(np.asarray(alpha, float), mean.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Beyond 30 standard deviations two or three pairs do, and the distribution's series no longer converges.
        d = np.minimum(np.abs(mean) / std, 30.0)
    known = (n >= 2) & (std > 0)
    d = np.where(known, d, 1.0)
    low, high = np.full(d.shape, 1.0), np.full(d.shape, float(MOST_SEEDS))
    found = compute_power(d, high, alpha) >= POWER
    while (high - low > 1).any():
        middle = np.maximum(np.floor((low + high) / 2), 2)
        enough = compute_power(d, middle, alpha) >= POWER
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(known, np.where(found, high, np.inf), np.nan)


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
