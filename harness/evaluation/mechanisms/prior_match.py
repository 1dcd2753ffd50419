"""Whether the aggregated posterior is the prior: the maximum mean discrepancy between codes and p(z) = N(0, I).

The kernel is a mean of Gaussians, k(a, b) = mean over s of exp(-|a - b|^2 / (2 s^2)), s^2 = Z c, c in SCALES, from
local to global: the median of |a - b|^2 under the prior is about 2 Z. Means of Gaussians over a Gaussian are known in
closed form, so that the prior is itself, and no sample of it.
"""

import math
from itertools import product

import torch
from torch import Tensor

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
BLOCK = 1024  # rows of the kernel matrix held at once


def maximum_mean_discrepancy(codes: Tensor) -> float:
    """MMD^2 between the distribution of codes (N, Z) and N(0, I), unbiased (Gretton et al. 2012, equation 3).

    Its expectation is 0 for codes of the prior, so that it can be below 0; `mmd_floor` says how far it then strays.
    """
    n, z = codes.shape
    codes = codes.double()
    norms = codes.square().sum(1)
    within = torch.zeros((), dtype=torch.float64)
    for rows, own in zip(codes.split(BLOCK), norms.split(BLOCK), strict=True):
        squares = torch.addmm(norms, rows, codes.T, alpha=-2).add_(own[:, None]).clamp_(min=0)
        # Each of SCALES is half the next one, and its Gaussian the next one's square: one exponential for all.
        kernel = squares.mul_(-1 / (2 * z * max(SCALES))).exp_()
        for _ in SCALES:
            within += kernel.sum()
            kernel.square_()
    within -= n * len(SCALES)  # of each code with itself
    across = torch.stack([_mean_over_prior(norms, z * scale, z) for scale in SCALES]).sum(0).mean()
    prior = sum(_prior_with_itself(z * scale, z) for scale in SCALES)
    return ((within / (n * (n - 1)) - 2 * across + prior) / len(SCALES)).item()


def _mean_over_prior(norms: Tensor, squared_scale: float, z: int) -> Tensor:
    """E_y k(x, y) for y ~ N(0, I), of x of these squared norms."""
    width = squared_scale + 1
    return (-norms / (2 * width)).exp() * (squared_scale / width) ** (z / 2)


def _prior_with_itself(squared_scale: float, z: int) -> float:
    """E k(x, y) for x, y ~ N(0, I)."""
    return (squared_scale / (squared_scale + 2)) ** (z / 2)


def mmd_floor(n: int, z: int) -> float:
    """The standard deviation of `maximum_mean_discrepancy` for n codes (n, Z) of the prior itself, exactly.

    sqrt(2 / (n (n - 1)) E h(x, y)^2), h being the kernel with its means taken out (Gretton et al. 2012, appendix B).
    E h^2 = E k^2 - 2 E_x (E_y k)^2 + (E k)^2, each a mean of Gaussians over Gaussians.
    """
    both = single = mean = 0.0
    for a, b in product([z * scale for scale in SCALES], repeat=2):
        both += _prior_with_itself(a * b / (a + b), z)
        spread = 1 / (1 / (a + 1) + 1 / (b + 1))  # of the product of the two means over y
        single += (a / (a + 1) * b / (b + 1) * spread / (spread + 1)) ** (z / 2)
        mean += _prior_with_itself(a, z) * _prior_with_itself(b, z)
    squares = max(both - 2 * single + mean, 0.0) / len(SCALES) ** 2
    return math.sqrt(2 * squares / (n * (n - 1)))
