"""Seeds side by side on a GPU: captured, and in how much time. `make gpu`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.record import RunFolder
from harness.train import train
from harness.training.together import train_together
from tests.gpu.test_one_gpu import harness_step, measure
from tests.harness.training import test_side_by_side as seeds
from tests.harness.training.test_side_by_side import SideBySide, assert_nearly, build, build_default, build_seed
from variants import VARIANTS


@pytest.fixture(autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("these tests need an NVIDIA GPU, and torch sees none")
    return torch.device("cuda")


@pytest.mark.parametrize("name", VARIANTS)
def test_captured_seeds_train_as_eager_ones_to_the_bit(name: str) -> None:
    x = (torch.rand(8, seeds.SEEDS, 64, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1).to("cuda")
    losses = []
    for step in ("eager", "graph"):
        engines = [build_seed(name, "mlp", seed, step=step) for seed in range(seeds.SEEDS)]
        losses.append(seeds.train_side_by_side(engines, x, name, "mlp"))
    assert torch.equal(*losses)


def test_runs_are_recorded_as_they_are_alone(tmp_path: Path) -> None:
    configs = [build(seed) for seed in range(3)]
    assert train_together(configs, tmp_path / "together") == [None] * 3
    for config in configs:
        alone = train(config, tmp_path / "alone")
        found = RunFolder(tmp_path / "together" / config.run_id)
        for expected, record in zip(alone.read_records(), found.read_records(), strict=True):
            assert_nearly(
                *({key: value for key, value in each.items() if "time/" not in key} for each in (record, expected))
            )


def test_five_seeds_take_at_most_twice_the_time_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, one = measure(harness_step())
    found = {n: measure(_build_step(n))[1] for n in (2, 5, 10)}
    with capsys.disabled():
        print("".join(f"\n{n} seeds / one: {seconds / one:.2f}" for n, seconds in found.items()))
    assert found[5] <= 2 * one


def _build_step(n: int) -> Any:
    """A step of n seeds on the same images."""
    model = SideBySide([build_seed("aae", "mlp", seed) for seed in range(n)], build_default("aae", "mlp"))
    count = iter(range(10**6))

    def step(x: torch.Tensor) -> None:
        number = next(count)
        model.step([x] * n, [number] * n)

    return step
