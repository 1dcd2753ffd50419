"""Data with known factors, and what is measured with them: rendering, and all mechanisms of one run."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from harness.config import build_config
from harness.data.sprites import render_sprites
from harness.evaluation.mechanisms.measure import MOST_IMAGES, measure_mechanisms
from harness.evaluation.posterior import compute_posterior
from harness.train import prepare
from variants import AutoEncoder

LIMIT = 10  # seconds, on two cores


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@pytest.mark.parametrize("size", [32, 64])
def test_rendering_sprites(size: int) -> None:
    taken = seconds(lambda: render_sprites(size))
    print(f"\nrendering sprites at {size} px: {taken:.1f} s")
    assert taken < LIMIT


@pytest.mark.parametrize("dataset", ["sprites", "digits"])
def test_all_mechanisms_of_a_run(dataset: str) -> None:
    """Of the variant that has most of them: its codes are measured twice. Briefly trained, as trees are quicker to grow
    on codes that say something.
    """
    config = build_config(
        {"variant": "latent_mapping", "dataset": dataset, "extractor": "domain", "max_images": MOST_IMAGES}
    )
    engine, data, (evaluator,) = prepare(config)
    for step, indices in enumerate(data.epoch(0, 0, config.batch_size, 0, 1)):
        engine.step(data.batch(indices, engine.processes.device), step)
    variant, reading = engine.variant, evaluator.reading
    assert isinstance(variant, AutoEncoder)
    posterior = compute_posterior(variant, data, reading, 0, engine.processes)
    assert posterior is not None
    taken = seconds(
        lambda: measure_mechanisms(variant, posterior, data, evaluator.extractor, reading, 0, engine.processes)
    )
    print(f"\nmechanisms of {len(data)} images of {dataset}, {torch.get_num_threads()} threads: {taken:.1f} s")
    assert taken < LIMIT
