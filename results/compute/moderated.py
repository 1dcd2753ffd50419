"""Where the variance of a handful of seeds comes from: each cell's own, and what all comparable cells have in common.

Two seeds know their own spread with one degree of freedom. The cells of a campaign are trainings of one kind, and their
spreads resemble each other: Smyth (2004, "Linear models and empirical Bayes methods") takes each variance as drawn
around a common s0^2 with a worth of d0 degrees of freedom, both estimated from all cells, and squeezes it towards s0^2.
limma does this for thousands of genes; a campaign has six cells, from which d0 is not known. So d0 is not believed
further than the cells show: before seeing any, spreads are expected to differ much (HETEROGENEITY), and the moments of
the cells outweigh that expectation as they get many. tests/results/test_calibration.py simulates what that holds.

Arrays' last axis is the cells; axes before it are collections (a simulation judges thousands at once).
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from results.compute.statistics import Array, compute_p

FEWEST = 4  # cells, or pairs of cells, below which nothing is borrowed
# Variance of the log variance of cells that is expected beforehand (half of them within a factor of 2.7 of the common
# variance), and how firmly: the standard deviation of that expectation.
HETEROGENEITY = 2.25
DOUBT = 3.0
STANDS_OUT = 0.05  # the chance of any false outlier among the cells of a collection
TREND_CELLS, TREND_LEVEL = 12, 0.01  # with so many cells, and at this level, the variance may follow the mean
PAIR_LEVEL, PAIR_LEVEL_OF_FEW, FEW_BLOCKS = 0.05, 0.005, 4


@dataclass(frozen=True)
class Prior:
    """What cells have in common.

    Args: variance (..., C): s0^2, along a trend over the mean where there is one.
        df (..., C): d0, the degrees of freedom that it is worth; 0 for a cell that stands out, or borrows nothing.
        cells (...,): that it is from. pooled (...,): degrees of freedom of them all, more than which no cell has.
    """

    variance: Array
    df: Array
    cells: Array
    pooled: Array

    def squeeze(self, variance: Array, df: Array, cautious: bool = False) -> tuple[Array, Array]:
        """A cell's variance (..., C) drawn towards the common one, and its degrees of freedom.

        A cell of one seed (df 0) takes the common variance. Cautious: no cell's is less than the common one; for single
        tests at 5 %, which the average over many comparisons does not save where few cells estimate it.
        """
        variance, df = np.nan_to_num(np.asarray(variance, float)), np.asarray(df, float)
        infinite = np.isinf(self.df)
        worth = np.where(infinite, 0.0, self.df)
        with np.errstate(invalid="ignore", divide="ignore"):
            own = np.where(df > 0, df * variance, 0)
            squeezed = np.where(infinite, self.variance, (worth * np.nan_to_num(self.variance) + own) / (worth + df))
            squeezed = np.where(cautious & (self.df > 0), np.fmax(squeezed, self.variance), squeezed)
        total = np.where(self.df > 0, np.minimum(self.df + df, self.pooled[..., None]), df)
        return squeezed, total


def estimate_prior(
    variance: Array, df: Array, means: Array | None = None, expected: float = HETEROGENEITY, doubt: float = DOUBT
) -> Prior:
    """The common variance of cells and its worth, from log variances (Smyth 2004, section 6.2).

    Args: variance (..., C): n - 1; cells without a spread or with one seed say nothing. df (..., C): n - 1.
        means (..., C): for a trend. doubt: infinite for limma's own moments, which trust few cells like thousands.
    """
    variance, df = np.broadcast_arrays(np.asarray(variance, float), np.asarray(df, float))
    usable = (df > 0) & (variance > 0)
    first = _fit(variance, df, usable, means, expected, doubt)
    # Robustly (after Phipson et al. 2016): a cell whose variance no draw would explain keeps its own, and the others
    # are estimated without it.
    with np.errstate(invalid="ignore", divide="ignore"):
        tail = special.fdtrc(np.maximum(df, 1), np.minimum(first.df, 1e6), variance / first.variance)
    outlying = usable & (tail * usable.sum(axis=-1, keepdims=True) < STANDS_OUT) & (first.df > 0)
    if not outlying.any():
        return first
    prior = _fit(variance, df, usable & ~outlying, means, expected, doubt)
    return Prior(prior.variance, np.where(outlying, 0.0, prior.df), prior.cells, prior.pooled)


def _fit(variance: Array, df: Array, usable: Array, means: Array | None, expected: float, doubt: float) -> Prior:
    count = usable.sum(axis=-1)
    safe_df = np.where(usable, df, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        e = np.log(np.where(usable, variance, 1.0)) - special.digamma(safe_df / 2) + np.log(safe_df / 2)
        centre = _mean(e, usable)
        freedom = np.maximum(count - 1, 1)
        follows = np.asarray(False)
        squares = _sum((e - centre) ** 2, usable)
        if means is not None:
            line = _follow_trend(e, np.asarray(means, float), usable, centre, squares, freedom)
            centre, squares, freedom, follows = line
        chance = _mean(special.polygamma(1, safe_df / 2), usable)
        excess = (squares / freedom[..., None]) - chance
        if np.isfinite(doubt):
            # The sampling variance of the excess: of a variance over C values, with its kurtosis.
            kurtosis = _mean(special.polygamma(3, safe_df / 2), usable) + special.polygamma(
                3, _invert_trigamma(np.asarray(expected))
            )
            noise = (2 * (chance + expected) ** 2 * (count / freedom)[..., None] + kurtosis) / count[..., None]
            excess = (excess / noise + expected / doubt**2) / (1 / noise + 1 / doubt**2)
        half = _invert_trigamma(np.where(excess > 0, excess, 1.0))
        d0 = np.where(excess > 0, 2 * half, np.inf)
        common = np.exp(centre + np.where(excess > 0, special.digamma(half) - np.log(half), 0.0))
        pooled = _sum(np.where(usable, df, 0), usable)
        plain = _sum(np.where(usable, df * variance, 0), usable) / pooled
        # Cells that differ by no more than chance: their mean variance, as limma.
        common = np.where((excess > 0) | follows, common, plain)
    enough = (count >= FEWEST)[..., None]
    d0 = np.where(enough, d0, 0.0)
    shape = np.broadcast_shapes(variance.shape, common.shape)
    return Prior(np.broadcast_to(common, shape), np.broadcast_to(d0, shape), count, pooled[..., 0])


def _follow_trend(
    e: Array, means: Array, usable: Array, centre: Array, squares: Array, freedom: Array
) -> tuple[Array, Array, Array, Array]:
    """The log variance along a line over the cells' means, where the line explains more than chance would."""
    known = usable & np.isfinite(means)
    x = np.where(known, means, 0.0)
    x = np.where(known, x - _mean(x, known), 0.0)
    spread = _sum(x**2, known)
    slope = np.where(spread > 0, _sum(x * (e - centre), known) / np.where(spread > 0, spread, 1), 0.0)
    left = _sum((e - centre - slope * x) ** 2, usable)
    rest = np.maximum(freedom - 1, 1)[..., None]
    p = special.fdtrc(1, rest, (squares - left) / (left / rest))
    follow = (known.sum(axis=-1, keepdims=True) >= TREND_CELLS) & (p < TREND_LEVEL)
    centre = np.where(follow, centre + slope * x, centre)
    return centre, np.where(follow, left, squares), np.where(follow[..., 0], freedom - 1, freedom), follow


def _sum(values: Array, usable: Array) -> Array:
    return np.where(usable, values, 0.0).sum(axis=-1, keepdims=True)


def _mean(values: Array, usable: Array) -> Array:
    return _sum(values, usable) / np.maximum(usable.sum(axis=-1, keepdims=True), 1)


def _invert_trigamma(x: Array) -> Array:
    """y with trigamma(y) = x, by Newton's method (Smyth 2004, appendix)."""
    x = np.asarray(x, float)
    y = 0.5 + 1 / x
    for _ in range(10):
        trigamma = special.polygamma(1, y)
        y = y + trigamma * (1 - trigamma / x) / special.polygamma(2, y)
    return np.where(x > 1e7, 1 / np.sqrt(x), np.where(x < 1e-6, 1 / x, y))


@dataclass(frozen=True)
class Test:
    """Differences on the measure's scale, each with its standard error and degrees of freedom."""

    difference: Array
    error: Array
    df: Array

    @property
    def p(self) -> Array:
        return compute_p(self.difference, self.error, self.df)


def compare_unpaired(
    difference: Array,
    variances: tuple[Array, Array],
    counts: tuple[Array, Array],
    df: tuple[Array, Array],
    moderated: Array,
) -> Test:
    """Two cells' means against each other.

    Args: variances, df: of both cells, squeezed. counts: their seeds. moderated: whether anything was borrowed; then
        the smaller df counts, since what both borrowed is the same; else it is Welch's, by Satterthwaite.
    """
    parts = [variance / n for variance, n in zip(variances, counts, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        welch = (parts[0] + parts[1]) ** 2 / (parts[0] ** 2 / df[0] + parts[1] ** 2 / df[1])
    least = np.minimum(df[0], df[1])
    chosen = np.where(moderated, least, welch)
    # One of two without any spread is a copy, or at a bound: it says nothing, whatever the other one's spread is.
    sound = (parts[0] > 0) & (parts[1] > 0) & (chosen > 0)
    return Test(difference, np.where(sound, np.sqrt(parts[0] + parts[1]), np.nan), np.where(sound, chosen, np.nan))


@dataclass(frozen=True)
class Blocks:
    """What seeds have in common over the cells of their settings: mean squares of a two-way analysis of variance.

    Args: common: of the seeds, `df` its degrees of freedom; rest: of what is left, `rest_df` its. size: cells a seed.
    """

    common: Array
    df: Array
    rest: Array
    rest_df: Array
    size: Array

    @property
    def correlation(self) -> Array:
        """Of two cells' scores with the same seed: the variance that they share; NaN where no seeds are shared."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.common - self.rest) / (self.common + (np.asarray(self.size) - 1) * self.rest)

    @property
    def pays(self) -> Array:
        """Whether seeds go together by more than chance, so that pairs are worth the degrees of freedom that they cost.

        With few blocks a coincidence looks like a correlation, and would lower the errors of all comparisons at once:
        there they must go together much more.
        """
        df, rest_df = np.asarray(self.df), np.asarray(self.rest_df)
        with np.errstate(invalid="ignore", divide="ignore"):
            p = special.fdtrc(np.maximum(df, 1), np.maximum(rest_df, 1), self.common / self.rest)
        level = np.where(df >= FEW_BLOCKS, PAIR_LEVEL, PAIR_LEVEL_OF_FEW)
        return (df >= 1) & (rest_df >= 1) & (p < level)


def measure_blocks(values: Array) -> Blocks:
    """Of balanced settings: values (..., D, k, n) are settings, their cells, seeds."""
    settings, k, n = values.shape[-3:]
    residuals = values - values.mean(axis=-1, keepdims=True)
    shared = residuals.mean(axis=-2, keepdims=True)
    df, rest_df = settings * (n - 1), settings * (n - 1) * (k - 1)
    common = k * (shared**2).sum(axis=(-3, -2, -1)) / df
    rest = ((residuals - shared) ** 2).sum(axis=(-3, -2, -1)) / rest_df
    return Blocks(common, np.asarray(df), rest, np.asarray(rest_df), np.asarray(k))


def compare_with_first(values: Array, cautious: bool = False) -> Test:
    """Every cell of balanced settings against the first of its setting, all judged together as one collection.

    Args: values (..., D, k, n): on the measure's scale. Returns: arrays (..., D, k - 1).
    """
    settings, k, n = values.shape[-3:]
    outer = values.shape[:-3]
    means = values.mean(axis=-1)
    flat = (*outer, settings * k)
    prior = estimate_prior(values.var(axis=-1, ddof=1).reshape(flat), np.asarray(n - 1.0), means.reshape(flat))
    squeezed, df = (
        part.reshape(*outer, settings, k)
        for part in prior.squeeze(values.var(axis=-1, ddof=1).reshape(flat), np.asarray(n - 1.0), cautious)
    )
    difference = means[..., 1:] - means[..., :1]
    count = np.asarray(float(n))
    borrowed = prior.df.reshape(*outer, settings, k)
    unpaired = compare_unpaired(
        difference,
        (squeezed[..., 1:], squeezed[..., :1]),
        (count, count),
        (df[..., 1:], df[..., :1]),
        (borrowed[..., 1:] > 0) & (borrowed[..., :1] > 0),
    )
    pairs = values[..., 1:, :] - values[..., :1, :]
    paired = compare_paired(
        pairs.mean(axis=-1), pairs.var(axis=-1, ddof=1), np.full(difference.shape, float(n)), outer, cautious
    )
    use = measure_blocks(values).pays[..., None, None]
    return Test(difference, np.where(use, paired.error, unpaired.error), np.where(use, paired.df, unpaired.df))


def compare_paired(
    difference: Array, variance: Array, n: Array, outer: tuple[int, ...] = (), cautious: bool = False
) -> Test:
    """Mean differences of pairs, whose variances (n - 1) are squeezed as cells' are. Axes after `outer` are pairs."""
    flat = (*outer, -1)
    shape = difference.shape
    own, df = variance.reshape(flat), (n - 1).reshape(flat)
    prior = estimate_prior(own, df)
    squeezed, total = prior.squeeze(own, df, cautious)
    sound = (own > 0) & (total > 0)
    error = np.where(sound, np.sqrt(squeezed / n.reshape(flat)), np.nan)
    return Test(difference, error.reshape(shape), np.where(sound, total, np.nan).reshape(shape))
