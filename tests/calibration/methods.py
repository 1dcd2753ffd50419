"""Ways to compare every variant of a setting with its first: ours, and those that it stands beside.

Each takes log FIDs (times, D, k, n) and gives `found` (times, D, k - 1): which differences it calls real, at 5 % over a
setting's comparisons; and the ends of its 95 % intervals of each, or None.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from results.compute.moderated import compare_with_first
from results.compute.statistics import ALPHA, adjust_holm

Found = tuple[np.ndarray, np.ndarray | None]
Method = Callable[[np.ndarray], Found]


def moderated(values: np.ndarray) -> Found:
    """Ours: results.compute.moderated."""
    test = compare_with_first(values)
    reach = stats.t.ppf(0.975, test.df) * test.error
    return adjust_holm(test.p) < ALPHA, np.stack([test.difference - reach, test.difference + reach])


def paired(values: np.ndarray) -> Found:
    """Paired t tests with Holm, as version 0.1.0 had them (on the scores themselves)."""
    scores = np.exp(values)
    p = stats.ttest_rel(scores[..., 1:, :], scores[..., :1, :], axis=-1).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    return adjust_holm(p) < ALPHA, None


def welch(values: np.ndarray) -> Found:
    """Welch's t tests with Holm."""
    scores = np.exp(values)
    first = np.broadcast_to(scores[..., :1, :], scores[..., 1:, :].shape)
    p = stats.ttest_ind(scores[..., 1:, :], first, axis=-1, equal_var=False).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    return adjust_holm(p) < ALPHA, None


def dunnett(values: np.ndarray) -> Found:
    """Dunnett's many-to-one test, with SciPy's multivariate t: one common variance."""
    flat = values.reshape(-1, *values.shape[-2:])
    p = np.array([stats.dunnett(*cells[1:], control=cells[0], rng=0).pvalue for cells in flat])
    return (p < ALPHA).reshape(*values.shape[:-2], -1), None


def bootstrap(values: np.ndarray) -> Found:
    """Percentile bootstrap intervals of the means that do not overlap; exact, over all resamples of few seeds."""
    random, n = np.random.default_rng(0), values.shape[-1]
    picks = np.stack(np.meshgrid(*[np.arange(n)] * n)).reshape(n, -1).T if n <= 4 else random.integers(0, n, (1000, n))
    low, high = np.quantile(values[..., picks].mean(axis=-1), [0.025, 0.975], axis=-1)
    return (low[..., 1:] > high[..., :1]) | (high[..., 1:] < low[..., :1]), None


METHODS: dict[str, Method] = {
    "moderated (ours)": moderated,
    "paired t, Holm (0.1.0)": paired,
    "Welch, Holm": welch,
    "Dunnett": dunnett,
    "bootstrap, no overlap": bootstrap,
}
SLOW = {"Dunnett": 60, "bootstrap, no overlap": 1000}  # most collections that it judges
