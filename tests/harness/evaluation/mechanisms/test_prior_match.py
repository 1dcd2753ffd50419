"""MMD is 0 for codes of the prior, but for a noise that is known exactly; against sums over samples."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from harness.evaluation.mechanisms.prior_match import SCALES, maximum_mean_discrepancy, mmd_floor
from variants.losses import mmd


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_sampling(codes: Tensor, prior: Tensor) -> float:
    """The unbiased estimate from two samples (Gretton et al. 2012, equation 3), with scipy's distances."""
    n, m, z = len(codes), len(prior), codes.shape[1]

    def kernel(a: Tensor, b: Tensor) -> np.ndarray:
        squares = cdist(a.numpy(), b.numpy(), "sqeuclidean")
        return np.mean([np.exp(-squares / (2 * z * scale)) for scale in SCALES], axis=0)

    within_codes, within_prior = kernel(codes, codes), kernel(prior, prior)
    return (
        (within_codes.sum() - n) / (n * (n - 1))
        + (within_prior.sum() - m) / (m * (m - 1))
        - 2 * kernel(codes, prior).mean()
    )


@pytest.mark.parametrize("z", [1, 2, 10])
def test_it_is_what_a_large_sample_of_the_prior_gives(z: int) -> None:
    codes = 0.6 * draw(700, z) + 0.3
    expected = by_sampling(codes, draw(3000, z, seed=1))
    assert expected > 10 * mmd_floor(3000, z)
    assert maximum_mean_discrepancy(codes) == pytest.approx(expected, rel=0.15)


def test_blocks_of_the_kernel_make_no_difference() -> None:
    codes = 0.5 * draw(2500, 3)
    n = len(codes)
    squares = cdist(codes.numpy(), codes.numpy(), "sqeuclidean")
    within = np.mean([np.exp(-squares / (6 * scale)) for scale in SCALES], 0)
    norms = codes.square().sum(1).numpy()
    across = np.mean([(3 * s / (3 * s + 1)) ** 1.5 * np.exp(-norms / (2 * (3 * s + 1))) for s in SCALES], 0)
    prior = np.mean([(3 * s / (3 * s + 2)) ** 1.5 for s in SCALES])
    expected = (within.sum() - n) / (n * (n - 1)) - 2 * across.mean() + prior
    assert maximum_mean_discrepancy(codes) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "z"), [(50, 2), (200, 10)])
def test_codes_of_the_prior_are_0_with_the_floor_as_their_spread(n: int, z: int) -> None:
    values = np.array([maximum_mean_discrepancy(draw(n, z, seed=seed)) for seed in range(800)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.std() == pytest.approx(mmd_floor(n, z), rel=0.15)


@pytest.mark.parametrize(
    "codes",
    [draw(2000, 4) * 0.9, draw(2000, 4) + 0.1, draw(2000, 4).abs(), torch.zeros(2000, 4, dtype=torch.float64)],
    ids=["shrunk", "moved", "folded", "a point"],
)
def test_what_is_not_the_prior_is_above_the_floor(codes: Tensor) -> None:
    assert maximum_mean_discrepancy(codes) > 3 * mmd_floor(2000, 4)


def test_codes_with_the_priors_mean_and_covariance_are_told_from_it_where_prior_kl_cannot() -> None:
    corners = draw(4000, 2).sign() + 0.05 * draw(4000, 2, seed=1)
    assert maximum_mean_discrepancy(corners / corners.std(0)) > 20 * mmd_floor(4000, 2)


def test_it_grows_with_the_mismatch_as_the_kernel_that_wae_mmd_trains_with_does() -> None:
    shifted = [draw(1000, 8) + shift for shift in (0.1, 0.2, 0.4, 0.8)]
    ours = [maximum_mean_discrepancy(codes) for codes in shifted]
    others = [mmd(codes.float(), draw(1000, 8, seed=1).float()).item() for codes in shifted]
    assert ours == sorted(ours)
    assert others == sorted(others)
