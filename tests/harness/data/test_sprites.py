"""sprites are the same bytes everywhere, and their factors say what is seen."""

import hashlib

import pytest
import torch

from harness.data.cache import read_metadata
from harness.data.sprites import ANGLES, N_SPRITES, build_factors, render_sprites
from harness.data.staging import load_training_set, stage_dataset


def find_centroids(images: torch.Tensor) -> torch.Tensor:
    """(N, 2): x and y, as shares of the side."""
    weights, size = images[:, 0].double(), images.shape[-1]
    middles = (torch.arange(size) + 0.5) / size
    mass = weights.sum((1, 2))
    return torch.stack([(weights.sum(1) * middles).sum(1) / mass, (weights.sum(2) * middles).sum(1) / mass], 1)


@pytest.mark.parametrize(
    ("size", "sha256"),
    [
        (32, "dd11a52486e3511fbe8437efb78ca6547f29aeb11eefabe4ebca49be457e287b"),
        (64, "fb25a08c95528c41e538d8874b856b8843fddc6a6afeca3efc88cef8fe6007cc"),
    ],
)
def test_the_bytes_are_those_of_every_other_machine(size: int, sha256: str) -> None:
    assert hashlib.sha256(render_sprites(size).images.numpy().tobytes()).hexdigest() == sha256


class TestRendering:
    contents = render_sprites(32)
    numbers = build_factors().numbers

    def test_every_combination_of_the_factors_is_one_image(self) -> None:
        assert len(self.contents.images) == len(self.numbers.unique(dim=0)) == N_SPRITES == 36_864
        assert [len(factor.values) for factor in build_factors().factors] == [3, 4, 12, 16, 16]

    def test_no_two_images_are_equal(self) -> None:
        assert len({image.tobytes() for image in self.contents.images.numpy()}) == N_SPRITES

    def test_x_and_y_are_where_the_shape_is(self) -> None:
        factors = build_factors()
        for axis, name in enumerate(("x", "y")):
            place = factors.names.index(name)
            values = torch.tensor([float(value) for value in factors.factors[place].values])[self.numbers[:, place]]
            assert (find_centroids(self.contents.images)[:, axis] - values).abs().max() < 0.5 / 32

    def test_scale_is_of_lengths(self) -> None:
        mass = self.contents.images.double().sum((1, 2, 3))
        scales = torch.tensor([float(value) for value in build_factors().factors[1].values])
        means = torch.stack([mass[self.numbers[:, 1] == number].mean() for number in range(4)])
        assert (means / means[-1]).tolist() == pytest.approx(scales.square().tolist(), rel=0.03)

    def test_a_turn_of_90_degrees_is_one_of_the_picture(self) -> None:
        shape, scale, orientation, x, y = self.numbers.T
        upright = torch.arange(N_SPRITES)[orientation == 0]
        quarter = torch.full_like(upright, ANGLES.index(90))
        turned = torch.stack([shape[upright], scale[upright], quarter, y[upright], 15 - x[upright]], 1)
        rows = (turned * torch.tensor([4 * 12 * 256, 12 * 256, 256, 16, 1])).sum(1)
        first, second = self.contents.images[upright, 0].double(), self.contents.images[rows, 0].double()
        assert (second - first.rot90(1, (1, 2))).abs().mean() < 0.02 * first.mean() * 32 / 8, "an eighth of a pixel"

    def test_edges_are_anti_aliased_and_images_black_and_white(self) -> None:
        values = self.contents.images.unique()
        assert values.min() == 0
        assert values.max() == 255
        assert len(values) > 50
        mass = self.contents.images.double().sum((1, 2, 3)).reshape(144, -1)
        assert ((mass - mass.mean(1, keepdim=True)).abs() < 0.02 * mass).all(), "no shape is cut off anywhere"

    def test_the_label_is_the_shape_with_its_scale_and_orientation(self) -> None:
        assert self.contents.labels is not None
        together = torch.cat([self.numbers[:, :3], self.contents.labels[:, None]], 1)
        assert len(together.unique(dim=0)) == len(self.contents.labels.unique()) == 144


@pytest.mark.parametrize("size", [8, 40])
def test_any_size_is_rendered_at_that_size(size: int) -> None:
    images = render_sprites(size).images
    assert images.shape == (N_SPRITES, 1, size, size)
    share = images.double().mean() / 255
    assert share == pytest.approx(0.0576, abs=0.0012), "the area of the shapes, whatever the size"


@pytest.mark.usefixtures("empty_cache")
class TestStaging:
    def test_the_factors_lie_beside_the_images(self) -> None:
        path = stage_dataset("sprites", 8)
        assert '"orientation"' in read_metadata(path)["factors"]
        data = load_training_set("sprites", 8)
        assert data.factors is not None
        assert data.factors.names == ["shape", "scale", "orientation", "x", "y"]
        assert data.factors.factors == build_factors().factors
        assert torch.equal(data.factors.numbers, build_factors().numbers)

    def test_a_subset_has_its_own_factors(self) -> None:
        whole, part = load_training_set("sprites", 8), load_training_set("sprites", 8, max_images=100)
        assert whole.factors is not None
        assert part.factors is not None
        rows = [int((whole.factors.numbers == row).all(1).nonzero()) for row in part.factors.numbers]
        assert torch.equal(whole.images[rows], part.images)
