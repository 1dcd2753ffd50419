"""Runs of a few steps for the tests of what is trained, and what their variants make of the same codes."""

from pathlib import Path
from typing import Any

import torch

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.normalisation import evaluation_mode
from harness.record import RunFolder
from harness.train import prepare
from harness.training.checkpoint import Progress, save_checkpoint
from harness.training.engine import Engine
from variants import AutoEncoder, Variant


def command(*arguments: str) -> int:
    return call(lambda: app([*arguments], result_action="return_value"))


def train_briefly(out: Path, **fields: Any) -> tuple[RunFolder, Engine, Evaluator]:
    """Three steps of a variant, checkpointed in its run folder; the engine that holds it, and its evaluator."""
    given = {"preset": "demo", "batch_size": 32, "max_images": 128, **fields}
    config = build_config(given)
    engine, data, (evaluator,) = prepare(config)
    for step, indices in zip(range(3), data.epoch(0, 0, 32, 0, 1), strict=False):
        engine.step(data.batch(indices, engine.processes.device), step)
    folder = RunFolder(out / config.run_id)
    folder.ask_for(config.model_dump(mode="json"))
    save_checkpoint(folder.checkpoints, Progress(0, 3), engine, best=True)
    return folder, engine, evaluator


def outputs(variant: Variant) -> list[torch.Tensor]:
    """What a variant makes of the same codes: images, and of these mu and sigma, where it has an encoder."""
    z = torch.randn(8, variant.latent_dim, generator=torch.Generator().manual_seed(0))
    with evaluation_mode(variant, "running"):
        images = variant.decode(z)
        return [images, *(variant.posterior(images) if isinstance(variant, AutoEncoder) else ())]


def assert_same(variant: Variant, other: Variant) -> None:
    assert all(torch.equal(*pair) for pair in zip(outputs(variant), outputs(other), strict=True))


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
