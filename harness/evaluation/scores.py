"""Scores as pure functions of statistics, in float64."""

import torch
from torch import Tensor


def matrix_square_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix (F, F)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(
    mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor, square_root_2: Tensor | None = None
) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2) between two Gaussians (Heusel et al. 2017; Dowson & Landau 1982).

    The trace of (S1 S2)^1/2 is the sum of the square roots of the eigenvalues of S2^1/2 S1 S2^1/2, which is symmetric.

    Args: means (F,), covariances (F, F), float64; square_root_2: S2^1/2 if it is known.
    Raises: ValueError if the shapes differ.
    """
    if mean_1.shape != mean_2.shape or covariance_1.shape != covariance_2.shape:
        raise ValueError(f"statistics of {len(mean_1)} and of {len(mean_2)} features cannot be compared")
    root = matrix_square_root(covariance_2) if square_root_2 is None else square_root_2
    cross = torch.linalg.eigvalsh(root @ covariance_1 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding can take the distance of equal Gaussians below zero


def inception_score(n: Tensor, probability_sum: Tensor, negative_entropy_sum: Tensor) -> float:
    """exp(E KL(p(y|x) || p(y))) with one split (Salimans et al. 2016; Barratt & Sharma 2018 on splits).

    Args: sums over n images: of p(y|x), (K,), and of sum_y p log p in nats.
    """
    marginal = probability_sum / n
    return (negative_entropy_sum / n - torch.special.xlogy(marginal, marginal).sum()).exp().item()
