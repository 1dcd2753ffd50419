"""sprites: white shapes on black, rendered here from five known factors, for measures of disentanglement.

Like dSprites (Matthey et al. 2017), but any size is rendered at that size, edges are anti-aliased, and no shape looks
the same after a turn, so that each factor can be read off each image. All arithmetic is in integers: the bytes are the
same on every machine.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from harness.data.factors import Factor, Factors
from harness.data.readers.formats import Contents

SHAPES = ("triangle", "half disc", "ell")
PERCENTS = (55, 70, 85, 100)  # of the largest shape
ANGLES = tuple(range(0, 360, 30))
POSITIONS = 16  # of the centre, along x and along y
RADIUS = 30  # percent of the image's side: of the circle around the largest shape
FIRST, SPAN = 30, 40  # percent of the side: where centres begin, and over how much they spread
SAMPLES = 8  # a side of the grid of points of each pixel
TURN = 2**14  # the unit of sines and cosines
N_SPRITES = len(SHAPES) * len(PERCENTS) * len(ANGLES) * POSITIONS**2


def render_sprites(image_size: int) -> Contents:
    """All 36,864 combinations of the factors: grey images (N, 1, S, S), `y` varying fastest, then `x`.

    A pixel is the share of its 8 x 8 points that lie in the shape. The labels (N,) number the 144 combinations of
    shape, scale and orientation: what a classifier can tell that pools its features over the image.
    """
    images = np.empty((N_SPRITES // POSITIONS**2, POSITIONS, POSITIONS, image_size, image_size), np.uint8)
    grey = ((np.arange(SAMPLES**2 + 1) * 255 + SAMPLES**2 // 2) // SAMPLES**2).astype(np.uint8)
    for number, mask in enumerate(_render_masks(image_size)):
        images[number] = grey[_count_points(mask, image_size)].transpose(2, 0, 1, 3)  # to (x, y, rows, columns)
    factors = build_factors()
    labels = torch.arange(len(images)).repeat_interleave(POSITIONS**2)
    return Contents(torch.from_numpy(images.reshape(-1, 1, image_size, image_size)), labels, factors=factors)


def build_factors() -> Factors:
    """shape, scale (of the largest), orientation (degrees, counter-clockwise), x and y (of the centre, shares of the
    side, from the upper left corner) of every image.
    """
    places = tuple((FIRST + SPAN * place / (POSITIONS - 1)) / 100 for place in range(POSITIONS))
    factors = (
        Factor("shape", SHAPES),
        Factor("scale", tuple(percent / 100 for percent in PERCENTS)),
        Factor("orientation", tuple(float(angle) for angle in ANGLES)),
        Factor("x", places),
        Factor("y", places),
    )
    return Factors(factors, torch.cartesian_prod(*(torch.arange(len(factor.values)) for factor in factors)))


def _render_masks(image_size: int) -> Iterator[np.ndarray]:
    """Which points of a square around its centre lie in a shape: (n, n) 0 or 1, by shape, scale and orientation."""
    reach = 2 * image_size * SAMPLES * RADIUS // 100  # of the largest shape, in half distances of points
    points = np.arange(-reach - 1 + reach % 2, reach + 2, 2, dtype=np.int64)  # odd: an even number, none at the centre
    x, y = points[None, :], -points[:, None]  # rows run downwards
    for shape in SHAPES:
        for percent in PERCENTS:
            radius = reach * percent * TURN // 100
            for angle in ANGLES:
                cosine, sine = (round(f(math.radians(angle)) * TURN) for f in (math.cos, math.sin))
                yield _is_inside(shape, cosine * x + sine * y, cosine * y - sine * x, radius)


def _is_inside(shape: str, x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    """Args: x, y: of points before the shape is turned, its centroid at 0; radius: of the circle that it lies in."""
    if shape == "triangle":  # with corners at (1, 0), (-0.5, 0.6), (-0.5, -0.6)
        return (2 * x >= -radius) & (5 * abs(y) <= 2 * (radius - x))
    if shape == "half disc":  # of radius 0.85 around (-0.36, 0)
        u, v = 100 * x + 36 * radius, 100 * y
        return (u >= 0) & (u * u + v * v <= (85 * radius) ** 2)
    rectangle = (10 * x >= -4 * radius) & (10 * x <= 7 * radius) & (10 * y >= -6 * radius) & (10 * y <= 9 * radius)
    return rectangle & ((10 * x <= radius) | (20 * y <= -3 * radius))  # without its upper right part


def _count_points(mask: np.ndarray, image_size: int) -> np.ndarray:
    """How many points of each pixel are covered, for every place: (places y, rows, places x, columns).

    Sums over rectangles are differences of sums from the corner, which makes all places of a shape one look-up.
    """
    n = len(mask)
    sums = np.zeros((n + 1, n + 1), np.int32)
    np.cumsum(np.cumsum(mask, 0, dtype=np.int32), 1, out=sums[1:, 1:])
    places = np.arange(POSITIONS)
    side = image_size * SAMPLES
    centres = side * (FIRST * (POSITIONS - 1) + SPAN * places) // (100 * (POSITIONS - 1))
    borders = np.arange(image_size + 1) * SAMPLES - centres[:, None] + n // 2  # of pixels, in the mask's points
    borders = borders.clip(0, n)
    strips = np.diff(sums[borders], axis=1)
    return np.diff(strips[:, :, borders], axis=3)
