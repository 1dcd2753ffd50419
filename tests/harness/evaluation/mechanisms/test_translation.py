"""Codes that do not see a move do not shift; codes that are a place shift by the distance."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.data.sets import TrainingSet
from harness.evaluation.mechanisms.translation import (
    DISTANCES,
    mean_squared_distance,
    measure_translation,
    move,
)
from harness.launch.processes import Processes, build_accelerator
from harness.protocol import Reading
from variants import AutoEncoder

SIZE = 24
READING = Reading("own", "running", 7, "", 0, 0, "", "", "")


class Handmade(AutoEncoder):
    """mu is a function of the images, sigma 0; the reconstruction is grey, or anything else that a test says."""

    def __init__(self, encode: Any, latent_dim: int, decode: Any = None) -> None:
        nn.Module.__init__(self)
        self.latent_dim, self.look, self.paint = latent_dim, encode, decode
        self.image_shape = (1, SIZE, SIZE)

    def phases(self) -> dict[str, Any]:
        return {}

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.look(x)
        return mu, torch.zeros_like(mu)

    def decode(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), 1, SIZE, SIZE) if self.paint is None else self.paint(z)


def build_dots() -> TrainingSet:
    """A white pixel at every place that is 5 px from the edge or more: 196 images."""
    images = torch.zeros(14 * 14, 1, SIZE, SIZE, dtype=torch.uint8)
    for number in range(len(images)):
        images[number, 0, 5 + number // 14, 5 + number % 14] = 255
    return TrainingSet("dots", images, None, 1, "")


DOTS = build_dots()


def find_place(x: Tensor) -> Tensor:
    """(B, 2): row and column of the dot, in px."""
    weights = (x[:, 0] + 1) / 2
    index = torch.arange(SIZE, dtype=torch.float32)
    return torch.stack([(weights.sum(2) * index).sum(1), (weights.sum(1) * index).sum(1)], 1)


def measure(variant: AutoEncoder, data: TrainingSet = DOTS, reading: Reading = READING) -> dict[str, float]:
    return measure_translation(variant, data, torch.arange(len(data)), reading, 0, Processes(build_accelerator("no")))


def test_a_move_repeats_the_pixels_of_the_edge() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    for rows, columns in ((1, 0), (-1, 0), (0, 1), (0, -2), (2, -1)):
        padded = np.pad(x[0, 0].numpy(), 4, mode="edge")
        expected = np.roll(padded, (rows, columns), (0, 1))[4:8, 4:8]
        assert move(x, rows, columns)[0, 0].numpy() == pytest.approx(expected)


def test_codes_that_count_pixels_do_not_shift() -> None:
    ones = torch.zeros(len(DOTS), 1, SIZE, SIZE, dtype=torch.uint8)
    for number in range(len(ones)):
        ones[number, 0, 5, 5 : 6 + number % 14] = 255
    values = measure(Handmade(lambda x: x.flatten(1).sum(1, keepdim=True), 1), replace(DOTS, images=ones))
    assert [values[f"code_shift_{d}px"] for d in DISTANCES] == pytest.approx([0, 0, 0], abs=1e-9)


def test_codes_that_are_the_place_shift_by_the_distance() -> None:
    values = measure(Handmade(find_place, 2))
    places = find_place(DOTS.batch(torch.arange(len(DOTS)), torch.device("cpu"))).double()
    pairs = torch.cdist(places, places).square().sum() / (len(places) * (len(places) - 1))
    for d in DISTANCES:
        assert values[f"code_shift_{d}px"] == pytest.approx(d**2 / pairs.item(), rel=1e-5)


def test_the_statistics_of_a_batch_do_not_take_the_shift_away() -> None:
    """BatchNorm over images and moved images: along a move, d over the spread of both, (v + d^2 / 4)^0.5."""
    at_once = replace(READING, normalisation="batch", batch_size=len(DOTS))
    variant = Handmade(nn.Sequential(PlaceOf(), nn.BatchNorm1d(2, affine=False)), 2)
    values = measure(variant, reading=at_once)
    places = find_place(DOTS.batch(torch.arange(len(DOTS)), torch.device("cpu"))).double()
    variance = places[:, 0].var(correction=0).item()
    between = 4 * len(DOTS) / (len(DOTS) - 1)  # of codes of variance 1 in two dimensions, over all pairs
    for d in DISTANCES:
        assert values[f"code_shift_{d}px"] == pytest.approx(d**2 / (variance + d**2 / 4) / between, rel=1e-3)


class PlaceOf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return find_place(x)


def test_codes_of_moved_images_that_are_those_of_others_shift_by_1() -> None:
    def draw(x: Tensor) -> Tensor:
        """A code that follows from the image, and from nothing that images share."""
        seeds = (find_place(x) @ torch.tensor([100.0, 1.0])).round().int().tolist()
        return torch.stack([torch.randn(50, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    values = measure(Handmade(draw, 50))
    assert [values[f"code_shift_{d}px"] for d in DISTANCES] == pytest.approx([1, 1, 1], rel=0.05)


def test_distances_between_codes_against_all_pairs() -> None:
    codes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = torch.cdist(codes, codes).square().sum().item() / (40 * 39)
    assert mean_squared_distance(codes) == pytest.approx(pairs)


def test_codes_that_are_all_equal_have_no_shift() -> None:
    values = measure(Handmade(lambda x: torch.zeros(len(x), 2), 2))
    assert set(values) == {f"moved_l1_{d}px" for d in DISTANCES}


class TestReconstructions:
    def test_a_decoder_that_paints_every_place_errs_alike(self) -> None:
        values = measure(Handmade(find_place, 2, self.paint_dimly))
        assert [values[f"moved_l1_{d}px"] for d in DISTANCES] == pytest.approx([1, 1, 1], rel=1e-5)

    def test_one_that_always_paints_where_the_image_was_errs_more_when_it_moves(self) -> None:
        def paint(z: Tensor) -> Tensor:
            return self.paint_dimly(torch.full_like(z, 11))

        values = measure(Handmade(find_place, 2, paint), replace(DOTS, images=DOTS.images[[14 * 6 + 6] * 2]))
        # Unmoved it misses the dot, which is at (11, 11), by 0.5; moved the dot by 2, and black by 1.5 where it was.
        assert [values[f"moved_l1_{d}px"] for d in DISTANCES] == pytest.approx([7, 7, 7], rel=1e-5)

    def paint_dimly(self, z: Tensor) -> Tensor:
        images = torch.full((len(z), 1, SIZE, SIZE), -1.0)
        rows, columns = z.round().long().clamp(0, SIZE - 1).T
        images[torch.arange(len(z)), 0, rows, columns] = 0.5
        return images
