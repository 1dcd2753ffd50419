"""Batches follow from (seed, epoch); the images are those of the files, resized and scaled as published."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.data.pixels import resize
from harness.data.sets import TrainingSet
from harness.data.staging import load_training_set
from harness.seeding import GlobalNoise, compute_permutation, compute_subset, derive_seed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return load_training_set("digits", 32)


def test_embedded_digits(digits: TrainingSet) -> None:
    assert digits.images.shape == (1797, 1, 32, 32)
    assert digits.images.dtype == torch.uint8
    assert digits.labels is not None
    assert digits.labels.bincount().min() > 170


def test_a_batch_is_scaled_to_minus_one_to_one_and_grey_is_repeated(digits: TrainingSet) -> None:
    rows = torch.tensor([5, 0, 7])
    x = digits.batch(rows, CPU)
    assert x.shape == (3, 3, 32, 32)
    torch.testing.assert_close(x[:, 1], digits.images[rows, 0] / 255 * 2 - 1)
    assert torch.equal(x[:, 0], x[:, 2])
    grey = load_training_set("digits", 32, channels=1)
    assert grey.batch(rows, CPU).shape == (3, 1, 32, 32)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_processes(digits: TrainingSet, num_processes: int) -> None:
    whole = list(digits.epoch(3, 2, 64, rank=0, num_processes=1))
    shares = [list(digits.epoch(3, 2, 64, rank, num_processes)) for rank in range(num_processes)]
    assert all(
        torch.equal(torch.cat(parts), batch) for parts, batch in zip(zip(*shares, strict=True), whole, strict=True)
    )


def test_an_epoch_has_whole_batches_without_repetition(digits: TrainingSet) -> None:
    batches = list(digits.epoch(0, 0, 100, 0, 1))
    assert [len(batch) for batch in batches] == [100] * 17
    assert len(torch.cat(batches).unique()) == 1700


def test_an_epoch_can_start_in_its_middle(digits: TrainingSet) -> None:
    whole, rest = list(digits.epoch(1, 4, 200, 0, 1)), list(digits.epoch(1, 4, 200, 0, 1, start=5))
    assert [batch.tolist() for batch in whole[5:]] == [batch.tolist() for batch in rest]


def test_permutations_differ_by_seed_and_by_epoch() -> None:
    orders = [tuple(compute_permutation(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_noise_belongs_to_the_image_not_to_the_process() -> None:
    def draw(rank: int, num_processes: int) -> torch.Tensor:
        noise = GlobalNoise(7, rank, num_processes, CPU)
        noise.start_step(11)
        return torch.stack([noise(12 // num_processes, 5) for _ in range(2)])

    whole = draw(0, 1)
    for num_processes in (2, 3):
        parts = [draw(rank, num_processes) for rank in range(num_processes)]
        assert torch.equal(torch.cat(parts, dim=1), whole)
    assert not torch.equal(whole[0], whole[1])


def test_derived_seeds_are_distinct_and_fixed() -> None:
    seeds = {derive_seed(s, stream, i) for s in range(20) for stream in ("noise", "step") for i in range(50)}
    assert len(seeds) == 2000
    assert derive_seed(0, "weights") == 3699729803252847382


@pytest.mark.parametrize(("size", "target"), [((28, 28), 32), ((64, 64), 32), ((50, 37), 32), ((20, 20), 64)])
def test_resize_is_pils_bilinear(size: tuple[int, int], target: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((target, target), Image.Resampling.BILINEAR))
    ours = resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], target)[0].permute(1, 2, 0)
    assert np.abs(ours.numpy().astype(int) - expected.astype(int)).max() <= 1


def test_max_images_takes_a_random_subset_the_same_every_time(digits: TrainingSet) -> None:
    few, again = (load_training_set("digits", 32, max_images=50) for _ in range(2))
    assert len(few) == 50
    assert torch.equal(few.images, again.images)
    chosen = compute_subset(len(digits), 50)
    assert torch.equal(few.images, digits.images[chosen])
    assert digits.labels is not None
    assert few.labels is not None
    assert torch.equal(few.labels, digits.labels[chosen])
    assert chosen.max() > 1000, "of all of them, not of the first ones"
    assert {*chosen.tolist()} < {*compute_subset(len(digits), 60).tolist()}
    assert len(load_training_set("digits", 32, max_images=5000)) == len(digits)


def test_data_that_do_not_fit_stay_memory_mapped(digits: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digits.to(CPU).images is not digits.images
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert digits.to(CPU).images is digits.images


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_images_on_a_gpu_are_batched_there(device: str) -> None:
    """Accelerate's device bears no number on one GPU, a tensor's always does. Tensors without data stand for both."""
    with FakeTensorMode():
        resident = TrainingSet("any", torch.empty(9, 1, 8, 8, dtype=torch.uint8, device="cuda"), None, 3, "")
        x = resident.batch(torch.arange(4, device="cuda"), torch.device(device))
    assert (x.device.type, x.shape) == ("cuda", (4, 3, 8, 8))


def test_fashion_mnist_is_the_published_files(fashion_mnist: Path) -> None:
    data = load_training_set("fashion_mnist", 28)
    assert data.images.shape == (60000, 1, 28, 28)
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [6000] * 10
    assert data.labels[:6].tolist() == [9, 0, 0, 3, 0, 2]
    assert abs(data.images.float().mean().item() / 255 - 0.2860) < 1e-4, "the mean that everybody normalises with"
