"""The path length is the mean square of how fast features change along a path; of linear maps it is known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.evaluation.extractors import Extractor, Network, three_channels
from harness.evaluation.mechanisms.smoothness import EPSILON, PathImages, measure_path_length, path_length, slerp
from harness.launch.processes import Processes, build_accelerator
from harness.protocol import Protocol, Reading, load_protocol
from variants import Variant

SIZE = 8
READING = Reading("own", "batch", 512, "", 0, 0, "", "", "")
CPU = torch.device("cpu")


class Linear(Variant):
    """x = A z, of one channel."""

    def __init__(self, weight: Tensor, normalise: bool = False) -> None:
        nn.Module.__init__(self)
        self.latent_dim, self.weight = weight.shape[1], nn.Parameter(weight)
        self.norm = nn.BatchNorm1d(weight.shape[0]) if normalise else nn.Identity()

    def build_networks(self, options: Any) -> None: ...

    def phases(self) -> dict[str, Any]:
        return {}

    def decode(self, z: Tensor) -> Tensor:
        return self.norm(z @ self.weight.T).reshape(-1, 1, SIZE, SIZE)


class Pixels:
    """Features are pixels, in [0, 255]."""

    n_features, n_classes = SIZE**2, 0

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.flatten(1), images.new_empty(len(images), 0)

    def in_float32(self) -> "Pixels":
        return self


def measure(variant: Variant, reading: Reading = READING, extractor: Any = None) -> float:
    pixels: Any = Pixels()
    return measure_path_length(variant, extractor or pixels, reading, 0, Processes(build_accelerator("no")))


def squared_speeds(latent_dim: int) -> np.ndarray:
    """|dz/dt|^2 of slerp between draws of the prior, in closed form: the arc's, and what the lengths change."""
    a, b = np.random.default_rng(0).standard_normal((2, 20_000, latent_dim))
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    angle = np.arccos((a * b).sum(1) / (lengths[0] * lengths[1]))
    t = np.random.default_rng(1).random(20_000)
    return (angle * ((1 - t) * lengths[0] + t * lengths[1])) ** 2 + (lengths[1] - lengths[0]) ** 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestSlerp:
    def test_it_goes_along_the_arc_at_constant_speed(self) -> None:
        a, b = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
        for t in (0.0, 0.25, 0.5, 1.0):
            point = slerp(a, b, torch.tensor([[t]]).double())
            assert point.tolist()[0] == pytest.approx([2 * np.cos(t * np.pi / 2), 2 * np.sin(t * np.pi / 2)])

    def test_between_codes_of_one_line_it_is_straight(self) -> None:
        a, b = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).double(), torch.tensor([[3.0, 3.0], [-1.0, 0.0]]).double()
        assert slerp(a, b, torch.full((2, 1), 0.5).double()).tolist() == [[2.0, 2.0], [0.0, 0.0]]
        one = slerp(a[:, :1], b[:, :1], torch.full((2, 1), 0.25).double())
        assert one.flatten().tolist() == pytest.approx([1.5, 0.5])

    def test_its_middle_is_no_shorter_than_its_ends(self) -> None:
        a, b = draw(1000, 10).double(), draw(1000, 10, seed=1).double()
        middle = slerp(a, b, torch.full((1000, 1), 0.5).double()).norm(dim=1)
        assert torch.allclose(middle, (a.norm(dim=1) + b.norm(dim=1)) / 2)


def test_the_two_images_of_a_path_lie_one_step_apart() -> None:
    images = PathImages(Linear(draw(SIZE**2, 6)), READING, 3, CPU)
    codes = images.codes(0, 4000).double()
    steps = (codes[1::2] - codes[::2]).norm(dim=1) / EPSILON
    assert steps.square().mean().item() == pytest.approx(squared_speeds(6).mean(), rel=0.05)
    assert torch.equal(images.codes(1000, 1010), images.codes(0, 4000)[1000:1010]), "whatever the batches"


def test_a_linear_decoder_has_the_length_of_its_matrix() -> None:
    weight = torch.linalg.qr(draw(SIZE**2, 6)).Q * 0.05  # which keeps lengths, but for the factor
    assert measure(Linear(weight)) == pytest.approx((0.05 * 127.5) ** 2 * squared_speeds(6).mean(), rel=0.05)
    assert measure(Linear(3 * weight)) == pytest.approx(9 * measure(Linear(weight)), rel=0.01)


def test_a_decoder_that_ignores_codes_has_none() -> None:
    assert measure(Linear(torch.zeros(SIZE**2, 6))) == 0


def test_a_protocols_autocast_leaves_it_in_float32() -> None:
    """bfloat16 has eight bits: of values up to 255 it rounds off many times what a step of 1e-4 changes."""
    weight = draw(3 * SIZE**2, 16, seed=1)

    def extract(pixels: Tensor) -> tuple[Tensor, None]:
        return three_channels(pixels).flatten(1) @ weight, None

    def build(autocast: str) -> Extractor:
        protocol = Protocol.model_validate({**load_protocol("clean").model_dump(), "name": "own", "autocast": autocast})
        return Extractor("own", Network("", SIZE, "none", extract), protocol, CPU)

    decoder, exact, rounded = Linear(0.05 * draw(SIZE**2, 6)), build("no"), build("bf16")
    assert measure(decoder, extractor=rounded) == pytest.approx(measure(decoder, extractor=exact), rel=1e-4)
    images = 255 * draw(4, 1, SIZE, SIZE).abs()
    assert not torch.equal(rounded(images)[0], exact(images)[0]), "all else is scored as the protocol says"


def test_a_batchs_own_statistics_are_those_of_both_images_of_a_path() -> None:
    weight = 0.05 * draw(SIZE**2, 6)
    scale = (weight @ weight.T).diagonal().sqrt()  # the standard deviation of each pixel, over the prior
    same = measure(Linear(weight / scale[:, None]))
    assert measure(Linear(weight, normalise=True)) == pytest.approx(same, rel=0.1)
    odd = Reading("own", "batch", 511, "", 0, 0, "", "", "")
    assert measure(Linear(weight, normalise=True), odd) == pytest.approx(same, rel=0.1)


def test_features_one_after_the_other() -> None:
    features = torch.tensor([[0.0, 0.0], [3e-4, 4e-4], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert path_length(features) == pytest.approx((25 + 0) / 2)
