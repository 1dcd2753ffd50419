"""What each training option costs on a CPU: a step with it over one without, in turns. What does not pay is off."""

import pytest
import torch

from harness.train import prepare
from harness.training.checkpoint import Progress, save_checkpoint
from tests.benchmarks.test_training_speed import benchmark_config, harness_step, measure_in_turns, two_threads

__all__ = ["two_threads"]


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({"gradient_clipping": 1.0}, 1.10),
        ({"ema_decay": 0.999}, 1.05),
        ({"optimizer": "adamw"}, 1.05),
        ({"gradient_accumulation": 4}, 1.5),  # each part encodes for itself in each phase
        (
            {"mixed_precision": "bf16"},
            10.0,
        ),  # faster where a CPU has matrix units for it, 2 to 3 times as slow elsewhere
    ],
)
def test_an_option_costs(fields: dict[str, object], bound: float) -> None:
    ratio = measure_in_turns(harness_step("aae", **fields), harness_step("aae"), turns=40)
    print(f"\nstep with {fields} / step without: {ratio:.3f}")
    assert ratio <= bound


def test_convolutions_with_channels_last() -> None:
    """Why no run asks for it on a CPU."""
    small = {"architecture": "conv", "batch_size": 64}
    plain = harness_step("aae", **small)
    engine, data, _ = prepare(benchmark_config("aae", **small))
    engine.variant.to(memory_format=torch.channels_last)
    batches = list(data.epoch(0, 0, 64, 0, 1))

    def channels_last(number: int) -> None:
        x = data.batch(batches[number % len(batches)], engine.processes.device)
        engine.step(x.contiguous(memory_format=torch.channels_last), number)

    ratio = measure_in_turns(channels_last, plain, turns=16)
    print(f"\nconv step with channels last / without: {ratio:.3f}")
    assert ratio > 0.5


def test_a_checkpoint_every_epoch_costs_less_than_two_percent(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of an epoch of the 60,000 images: 58 steps."""
    folder = tmp_path_factory.mktemp("checkpoints")
    config = benchmark_config("aae", max_images=None)
    engine, data, _ = prepare(config)
    steps = data.steps_per_epoch(config.batch_size)
    batches = list(data.epoch(0, 0, config.batch_size, 0, 1))[:16]

    def train_sixteen_steps(number: int) -> None:
        for step, indices in enumerate(batches):
            engine.step(data.batch(indices, engine.processes.device), number * 16 + step)

    ratio = measure_in_turns(
        lambda number: save_checkpoint(folder, Progress(number), engine), train_sixteen_steps, turns=12
    )
    print(f"\na checkpoint / an epoch of {steps} steps: {ratio * 16 / steps:.4f}")
    assert ratio * 16 / steps < 0.02
