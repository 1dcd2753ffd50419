"""Disentanglement: whether each dimension of the codes is about one factor of the images, and each factor in one.

Codes are (N, Z), the factors' numbers (N, K) integers, K >= 2, of the same images. A dimension that never varies says
nothing about any factor; a factor that never varies is not asked about (`varying`).
"""

import numpy as np
import torch
from torch import Tensor

BINS = 20
TREES = 10
TREE_CODES = 5000  # that each tree of the forest is grown on
FEWEST_IN_LEAF = 10
VOTES = (10_000, 5_000)  # of the FactorVAE score: to fit the majority vote, and to test it
VOTE_SIZE = 64  # codes that a vote is taken over
SMALLEST_EIGENVALUE = 1e-12  # of a correlation matrix: keeps the total correlation of dependent dimensions finite


def varying(factors: Tensor) -> Tensor:
    """The columns of `factors` (N, K) that take two values or more: (N, K')."""
    return factors[:, (factors != factors[:1]).any(dim=0)]


def mutual_information_gap(codes: Tensor, factors: Tensor) -> float:
    """MIG: the mean over factors of (I(z_a; v) - I(z_b; v)) / H(v), 0 to 1 (Chen et al. 2018, equation 6).

    a and b are the two dimensions of most information about v. Each dimension is cut into 20 bins of equal width
    (Locatello et al. 2019). With a single dimension I(z_b; v) is 0.
    """
    binned = torch.stack([_cut(column) for column in codes.T], dim=1)
    gaps = []
    for v in factors.T:
        second, first = sorted([0.0, *(_mutual_information(z, v) for z in binned.T)])[-2:]
        gaps.append((first - second) / _entropy(torch.bincount(v)).item())
    return float(np.mean(gaps))


def _cut(column: Tensor) -> Tensor:
    """The bin of each value, 0 to 19."""
    edges = torch.linspace(column.min().item(), column.max().item(), BINS + 1, dtype=column.dtype)
    return torch.bucketize(column.contiguous(), edges[1:-1].contiguous(), right=True)


def _mutual_information(z: Tensor, v: Tensor) -> float:
    """In nats, of two columns of small integers."""
    width = int(v.max()) + 1
    table = torch.bincount(z * width + v, minlength=BINS * width).reshape(-1, width)
    return (_entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.flatten())).clamp(min=0).item()


def _entropy(counts: Tensor) -> Tensor:
    p = counts.double() / counts.sum()
    return -torch.special.xlogy(p, p).sum()


def dci_disentanglement(codes: Tensor, factors: Tensor, seed: int) -> float:
    """sum_i rho_i (1 - H_K(P_i)), 0 to 1: whether each dimension is about one factor (Eastwood & Williams 2018).

    R (Z, K) are the impurity importances of random forests, as in the authors' work, that predict each factor from the
    codes: 10 trees of scikit-learn, each grown on 5,000 codes, with 10 in a leaf at least. P_i = R_i / sum_k R_ik, with
    its entropy H_K to the base K; rho_i is dimension i's share of all importance. 0 where no dimension has any.
    """
    importances = compute_importances(codes, factors, seed)
    total = importances.sum()
    if total == 0:
        return 0.0
    shares = importances / np.maximum(importances.sum(1, keepdims=True), np.finfo(float).tiny)
    entropies = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1) / np.log(importances.shape[1])
    return float((importances.sum(1) / total * (1 - entropies)).sum())


def compute_importances(codes: Tensor, factors: Tensor, seed: int) -> np.ndarray:
    """R (Z, K): how much each dimension tells a random forest about each factor; columns sum to 1, or to 0."""
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 (slow to import)

    n = len(codes)
    forest = RandomForestClassifier(
        TREES,
        max_features=None,  # pyright: ignore[reportArgumentType] (all: the stubs know names alone)
        max_samples=min(n, TREE_CODES),
        min_samples_leaf=min(FEWEST_IN_LEAF, max(1, n // 10)),
        random_state=seed % 2**32,
        n_jobs=torch.get_num_threads(),
    )
    x = codes.numpy().astype(np.float32)
    return np.stack([forest.fit(x, v.numpy()).feature_importances_ for v in factors.T], axis=1)


def factorvae_score(codes: Tensor, factors: Tensor, generator: torch.Generator) -> float:
    """The accuracy of a majority vote on which factor was fixed, 1/K to 1 (Kim & Mnih 2018, section 4).

    For each vote a factor and its value are drawn, and 64 codes of images that have it; the vote is the dimension of
    least variance, in units of its variance over all codes. 10,000 votes fit the majority, 5,000 test it (Locatello et
    al. 2019). Dimensions that never vary have no vote; without any other the score is 0.
    """
    variances = codes.var(dim=0)
    alive = variances > 0
    if not alive.any():
        return 0.0
    scaled = codes[:, alive] / variances[alive].sqrt()
    n, k = factors.shape
    fixed = torch.randint(k, (sum(VOTES),), generator=generator)
    images = torch.randint(n, (sum(VOTES),), generator=generator)  # whose values of the factor are fixed
    draws = torch.rand(sum(VOTES), VOTE_SIZE, generator=generator, dtype=torch.float64)
    dimensions = torch.empty_like(fixed)
    for factor in range(k):
        mine = fixed == factor
        order, values = factors[:, factor].argsort(), factors[images[mine], factor]
        counts = torch.bincount(factors[:, factor])
        first, count = (counts.cumsum(0) - counts)[values], counts[values]
        rows = order[first[:, None] + (draws[mine] * count[:, None]).long()]
        dimensions[mine] = scaled[rows].var(dim=1).argmin(dim=1)
    votes = torch.zeros(scaled.shape[1], k, dtype=torch.int64)
    votes.index_put_((dimensions[: VOTES[0]], fixed[: VOTES[0]]), torch.ones(VOTES[0], dtype=torch.int64), True)
    guessed = votes.argmax(dim=1)[dimensions[VOTES[0] :]]
    return (guessed == fixed[VOTES[0] :]).double().mean().item()


def total_correlation(covariance: Tensor) -> float:
    """KL(N(m, S) || product of its marginals) = -log det(corr(S)) / 2, in nats: 0 for independent dimensions.

    Args: covariance: S (Z, Z). A dimension that never varies depends on no other one; an exact dependence, whose total
        correlation is infinite, counts as one of the smallest eigenvalue 1e-12: 14 nats.
    """
    scale = covariance.diagonal().sqrt()
    alive = scale > 0
    correlation = covariance[alive][:, alive] / torch.outer(scale[alive], scale[alive])
    eigenvalues = torch.linalg.eigvalsh(correlation).clamp(min=SMALLEST_EIGENVALUE)
    return max(-eigenvalues.log().sum().item() / 2, 0.0)


def probe_accuracy(codes: Tensor, labels: Tensor, seed: int) -> float:
    """The accuracy on every fifth code of a linear classifier (logistic regression) of the labels (N,), fitted to the
    others, 0 to 1; codes are standardised.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 (slow to import)
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
    held_out, fitted = order[: len(codes) // 5], order[len(codes) // 5 :]
    if len(labels[fitted].unique()) < 2:
        return float((labels[held_out] == labels[fitted][0]).double().mean())
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(codes[fitted].numpy(), labels[fitted].numpy())
    return float(probe.score(codes[held_out].numpy(), labels[held_out].numpy()))
