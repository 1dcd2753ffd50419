"""What it costs to score runs that are trained already: nothing where nothing is missing, and no training."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.config import RunConfig, build_config
from harness.models.evaluate import Asked, evaluate_runs, plan_evaluations
from harness.protocol import Protocol, load_protocol
from harness.record import RunFolder
from harness.training.loop import train

DIGITS: dict[str, Any] = {"dataset": "digits", "extractor": "domain", "eval_every": 100}


def measure_evaluations(folder: RunFolder) -> float:
    """Seconds of all evaluations after the first epoch, as their records say."""
    lines = [line for evaluation in folder.find_evaluations() for line in evaluation.read()]
    return sum(line.get("time/evaluation_seconds") or 0 for line in lines if line["epoch"])


def test_a_hundred_runs_that_need_nothing_are_looked_at_within_5_seconds(tmp_path: Path) -> None:
    for seed in range(100):
        config = build_config(DIGITS, {"epochs": 1, "seed": seed, "max_images": 128, "batch_size": 64, "n_fake": 64})
        train(config, tmp_path)
    command = [sys.executable, "-m", "aaebench", "evaluate", str(tmp_path)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    print(f"\nevaluate 100 finished runs that need nothing: {seconds:.2f} s")
    assert seconds < 5


def test_scoring_a_finished_run_takes_no_longer_than_it_took_in_training(tmp_path: Path) -> None:
    ratios = []
    for seed in range(3):
        folder = train(build_config(DIGITS, {"epochs": 2, "seed": seed}), tmp_path)
        during = measure_evaluations(folder)
        shutil.rmtree(folder.evaluations)
        evaluate_runs(plan_evaluations([folder.path], Asked())[0])
        ratios.append(measure_evaluations(folder) / during)
    print(f"\nscoring a finished run, over the same in training: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    assert min(ratios) < 1.1


def test_one_training_under_three_protocols_is_cheaper_than_three(tmp_path: Path) -> None:
    """128 digits for 40 epochs; the Inception of `published` has random weights."""
    from torchvision.models import inception_v3  # noqa: PLC0415 (slow to import)

    weights = tmp_path / "inception.pth"
    torch.save(inception_v3(weights=None, init_weights=False, aux_logits=True).state_dict(), weights)
    settings: dict[str, dict[str, Any]] = {name: {"extractor": "domain"} for name in ("paper", "clean")}
    settings["published"] = {"extractor_weights": weights, "n_fake": 64}
    wanted = [load_protocol(name).model_copy(update=changes) for name, changes in settings.items()]
    fields = {"dataset": "digits", "epochs": 40, "eval_every": 100, "max_images": 128, "batch_size": 64}

    def ask(protocols: Sequence[Protocol]) -> RunConfig:
        return build_config(fields, {"protocol": [protocol.model_dump(mode="json") for protocol in protocols]})

    train(ask(wanted), tmp_path / "warm")  # data, references
    started = time.perf_counter()
    train(ask(wanted), tmp_path / "once")
    once = time.perf_counter() - started
    started = time.perf_counter()
    for protocol in wanted:
        train(ask([protocol]), tmp_path / protocol.name)
    thrice = time.perf_counter() - started
    print(f"\none training scored under three protocols: {once:.0f} s; three trainings: {thrice:.0f} s")
    assert once < thrice
