"""Precision, recall, density and coverage: scores that compare images with their nearest neighbours, block by block.

A ball holds its boundary (Kynkaanniemi et al. 2019, equation 1), and equal features are at distance exactly zero: where
images repeat, a set against itself has precision and recall 1. The prdc package of Naeem et al. 2020 compares strictly:
there a ball of radius zero, around an image that occurs more than k times, does not hold even its centre. Where no two
distances are equal the two agree.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from harness.sending import send

NEIGHBOURS = 5
BLOCK = 1024  # rows of distances held at once
ROWS = 256  # that are numbered at once: they stay in a CPU's cache
MIXER = -7046029254386353131  # 2^64 over the golden ratio, as Knuth's multiplicative hashing has it: 0x9E3779B97F4A7C15


def neighbour_radii(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The distance from each of N images to its k-th nearest other one: (N,) float64.

    Args: features: (N, F). Raises: ValueError if N <= k.
    """
    if len(features) <= k:
        raise ValueError(f"the distance to neighbour {k} needs more than {k} images, not {len(features)}")
    nearest = [distances.topk(k + 1, dim=1, largest=False).values for distances in _distances(features, features)]
    return torch.cat(nearest)[:, k]


def count_duplicates(features: Tensor) -> int:
    """How many of N images have the same features as an earlier one. Args: features: (N, F)."""
    return len(features) - len(_number_rows(features).unique())


def compute_manifold_scores(
    real: Tensor, fake: Tensor, k: int = NEIGHBOURS, real_radii: Tensor | None = None
) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    An image lies in another set's manifold if it is no further from one of its images than that image's k-th neighbour.

    - precision: share of fake images in the real manifold; recall: share of real ones in the fake manifold.
    - density: real balls that a fake image lies in, over k; can exceed 1.
    - coverage: share of real images whose ball holds a fake one.

    Args: real (N, F), fake (M, F); real_radii: `neighbour_radii(real, k)` where they are known.
    Raises: ValueError if one of the sets has k images or fewer.
    """
    radii = neighbour_radii(real, k) if real_radii is None else real_radii
    fake_radii = neighbour_radii(fake, k)
    in_balls, precise = torch.zeros(2, dtype=torch.int64, device=real.device)
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64, device=real.device)
    for distances, radius in zip(_distances(fake, real), fake_radii.split(BLOCK), strict=True):
        inside = distances <= radii
        in_balls += inside.count_nonzero()
        precise += inside.any(1).count_nonzero()
        recalled |= (distances <= radius[:, None]).any(0)
        nearest = torch.minimum(nearest, distances.amin(0))
    counts = torch.stack([precise, recalled.count_nonzero(), in_balls, (nearest <= radii).count_nonzero()])
    sizes = {"precision": len(fake), "recall": len(real), "density": k * len(fake), "coverage": len(real)}
    return {name: count / size for (name, size), count in zip(sizes.items(), counts.tolist(), strict=True)}


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of blocks of x's rows to all of y: (B, M) float64, exactly zero between equal rows."""
    in_x, in_y = _number_rows(x), _number_rows(y)
    centre = y.double().mean(0)  # distances of centred features lose less to rounding
    y = y.double() - centre
    norms = y.square().sum(1)
    for block, numbers in zip(x.split(BLOCK), in_x.split(BLOCK), strict=True):
        rows = block.double() - centre
        squares = torch.addmm(norms, rows, y.T, alpha=-2).add_(rows.square().sum(1, keepdim=True))
        squares.masked_fill_(numbers[:, None] == in_y, 0)
        yield squares.clamp_(min=0).sqrt_()


def _number_rows(features: Tensor) -> Tensor:
    """A number for each row of (N, F): (N,) int64, the same for equal rows, and for others by a chance of about 2^-60.

    A product of the bits with random odd weights modulo 2^64, after a mixing, as in many values the last bits are zero.
    """
    odd = features.shape[1] % 2
    shape = pad(features[:0], (0, odd)).view(torch.int64).shape[1:]  # float32 in pairs
    weights = torch.randint(2**62, shape, generator=torch.Generator().manual_seed(0)) * 2 + 1
    weights, numbers = send(weights, features.device), []
    for rows in features.split(ROWS):
        bits = pad(rows + 0.0, (0, odd)).view(torch.int64) * MIXER  # 0.0, as -0.0 equals it
        bits ^= bits >> 32 & 2**32 - 1
        numbers.append(bits.mul_(weights).sum(1))
    return torch.cat(numbers)
