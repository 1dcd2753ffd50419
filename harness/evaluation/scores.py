"""Scores as pure functions of moments and features, in float64 where it matters.

Features are those of an extractor, (N, F); class probabilities are its p(y|x), (N, K).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.evaluation.statistics import Moments

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
BLOCK = 1024  # rows of a kernel matrix held at once


def matrix_square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix (F, F)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(real: Moments, fake: Moments, real_root: Tensor | None = None) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2) between two Gaussians (Heusel et al. 2017; Dowson & Landau 1982).

    The trace of (S1 S2)^1/2 is the sum of the square roots of the eigenvalues of S2^1/2 S1 S2^1/2, which is symmetric.

    Args: real_root: the square root of the real covariance, where it is known.
    Raises: ValueError if the numbers of features differ.
    """
    _require_equal_features(real.mean, fake.mean)
    root = matrix_square_root(real.covariance) if real_root is None else real_root
    eigenvalues = torch.linalg.eigvalsh(root @ fake.covariance @ root)
    return _assemble(real, fake, eigenvalues)


def frechet_distance_of_few(real: Moments, fake_features: Tensor, real_root: Tensor) -> float:
    """The same distance for fewer images than features, from the Gram matrix (N, N) of the fake ones.

    With X the centred features over sqrt(N - 1), S1 = X^T X, and the eigenvalues of S2^1/2 S1 S2^1/2 that are not zero
    are those of (X S2^1/2)(X S2^1/2)^T.
    Raises: ValueError if the numbers of features differ.
    """
    _require_equal_features(real.mean, fake_features[0])
    features = fake_features.double()
    mean, n = features.mean(0), len(features)
    centred = (features - mean) / math.sqrt(n - 1)
    projected = centred @ real_root
    trace = centred.square().sum().reshape(1, 1)  # of S1, all that is needed of it
    return _assemble(real, Moments(n, mean, trace), torch.linalg.eigvalsh(projected @ projected.T))


def _assemble(real: Moments, fake: Moments, eigenvalues: Tensor) -> float:
    cross = eigenvalues.clamp(min=0).sqrt().sum()
    distance = (real.mean - fake.mean).square().sum() + real.covariance.trace() + fake.covariance.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding can take the distance of equal Gaussians below zero


def _require_equal_features(real: Tensor, fake: Tensor) -> None:
    if real.shape[-1] != fake.shape[-1]:
        raise ValueError(f"{real.shape[-1]} and {fake.shape[-1]} features cannot be compared")


def extrapolate_fid(sizes: Sequence[int], distances: Sequence[float]) -> float:
    """FID-infinity: FID is linear in 1/N, so a line through FIDs of several N gives that of N -> infinity.

    Chong & Forsyth 2020, equation 6. It can be slightly negative where the true distance is close to zero.
    Raises: ValueError for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError("an extrapolation needs the FID at two sizes or more")
    return float(np.polynomial.Polynomial.fit([1 / n for n in sizes], distances, 1)(0))


def inception_score(probabilities: Tensor, negative_entropies: Tensor, counts: Tensor) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))) in each split: mean and standard deviation over the splits (Salimans et al. 2016).

    One split is what Barratt & Sharma 2018 advise. A split without images does not count.

    Args: sums over each split's images: of p(y|x) (S, K), of sum_y p log p in nats (S,), and their number (S,).
    """
    filled = counts > 0
    n = counts[filled]
    marginal = probabilities[filled] / n[:, None]
    scores = (negative_entropies[filled] / n - torch.special.xlogy(marginal, marginal).sum(1)).exp()
    return scores.mean().item(), scores.std(correction=0).item()


def kernel_distance(
    real: Tensor, fake: Tensor, generator: torch.Generator, subsets: int = KID_SUBSETS, size: int = KID_SUBSET_SIZE
) -> tuple[float, float | None]:
    """KID: the unbiased squared MMD with the kernel (x.y / F + 1)^3, mean over random subsets (Binkowski et al. 2018).

    Subsets are as large as `size`, or as the smaller set. Their sums of kernels are quadratic forms of the whole kernel
    matrix, of which a block of rows is held at a time.

    Args: real (N, F), fake (M, F), float32. Returns: mean and its standard error over the subsets, which overlap: where
        they are a large part of the sets it is too small, and where they are the whole there is none.
    Raises: ValueError for fewer than two images, or if the numbers of features differ.
    """
    _require_equal_features(real, fake)
    m = min(len(real), len(fake), size)
    if m < 2:
        raise ValueError(f"KID needs 2 images or more, not {m}")
    chosen = [_choose(len(features), m, subsets, generator).to(features.device) for features in (real, fake)]
    within = torch.zeros(subsets, dtype=torch.float64, device=real.device)
    for features, members in zip((real, fake), chosen, strict=True):
        diagonal = (features.double().square().sum(1) / features.shape[1] + 1) ** 3
        within += _sum_kernels(features, members, features, members) - members @ diagonal
    between = _sum_kernels(real, chosen[0], fake, chosen[1])
    distances = within / (m * (m - 1)) - 2 * between / m**2
    are_the_whole = m == len(real) == len(fake)
    mean, std = torch.stack([distances.mean(), distances.std()]).tolist()
    return mean, None if are_the_whole else std / math.sqrt(subsets)


def _choose(n: int, m: int, subsets: int, generator: torch.Generator) -> Tensor:
    """Random subsets of m out of n: (subsets, N) float64, 1 for a member."""
    members = torch.zeros(subsets, n, dtype=torch.float64)
    for row in members:
        row[torch.randperm(n, generator=generator)[:m]] = 1
    return members


def _sum_kernels(x: Tensor, in_x: Tensor, y: Tensor, in_y: Tensor) -> Tensor:
    """The sum of the kernel over each pair of subsets: (subsets,) float64."""
    total = torch.zeros(len(in_x), dtype=torch.float64, device=x.device)
    for rows in torch.arange(len(x), device=x.device).split(BLOCK):
        base = torch.addmm(x.new_ones(()), x[rows], y.T, alpha=1 / x.shape[1])
        total += (in_x[:, rows] @ base.square().mul_(base).double() * in_y).sum(1)
    return total
