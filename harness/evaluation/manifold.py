"""Precision, recall, density and coverage: scores that compare images with their nearest neighbours, block by block."""

from collections.abc import Iterator

import torch
from torch import Tensor

NEIGHBOURS = 5
BLOCK = 1024  # rows of distances held at once


def neighbour_radii(features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """The distance from each of N images to its k-th nearest other one: (N,) float64.

    Args: features: (N, F). Raises: ValueError if N <= k.
    """
    if len(features) <= k:
        raise ValueError(f"the distance to neighbour {k} needs more than {k} images, not {len(features)}")
    nearest = [squares.topk(k + 1, dim=1, largest=False).values for squares in _squared_distances(features, features)]
    return torch.cat(nearest)[:, k].sqrt()


def compute_manifold_scores(
    real: Tensor, fake: Tensor, k: int = NEIGHBOURS, real_radii: Tensor | None = None
) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    An image lies in another set's manifold if it is closer to one of its images than that image's k-th neighbour.

    - precision: share of fake images in the real manifold; recall: share of real ones in the fake manifold.
    - density: real balls that a fake image lies in, over k; can exceed 1.
    - coverage: share of real images whose ball holds a fake one.

    Args: real (N, F), fake (M, F); real_radii: `neighbour_radii(real, k)` where they are known.
    Raises: ValueError if one of the sets has k images or fewer.
    """
    balls = (neighbour_radii(real, k) if real_radii is None else real_radii).square()
    fake_balls = neighbour_radii(fake, k).square()
    in_balls = precise = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), torch.inf, dtype=torch.float64, device=real.device)
    for squares, ball in zip(_squared_distances(fake, real), fake_balls.split(BLOCK), strict=True):
        inside = squares < balls
        in_balls += int(inside.count_nonzero())
        precise += int(inside.any(1).count_nonzero())
        recalled |= (squares < ball[:, None]).any(0)
        nearest = torch.minimum(nearest, squares.amin(0))
    return {
        "precision": precise / len(fake),
        "recall": recalled.double().mean().item(),
        "density": in_balls / (k * len(fake)),
        "coverage": (nearest < balls).double().mean().item(),
    }


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances of blocks of x's rows to all of y: (B, M) float64."""
    centre = y.double().mean(0)  # distances of centred features lose less to rounding
    y = y.double() - centre
    norms = y.square().sum(1)
    for block in x.split(BLOCK):
        rows = block.double() - centre
        squares = torch.addmm(norms, rows, y.T, alpha=-2).add_(rows.square().sum(1, keepdim=True))
        yield squares.clamp_(min=0)
