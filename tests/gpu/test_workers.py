"""Many short runs on one GPU: how long one takes in a warm worker, and whether several workers disturb one another."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.config import RunConfig, build_config
from harness.data.staging import stage_dataset
from harness.evaluation.classifier import load_classifier
from harness.record import RunFolder
from slurm.local import choose_local, run_locally
from slurm.memory import measure_demand
from slurm.process import RunQueue, plan_run
from tests.harness.test_train import PATIENCE, ROOT, assert_same_run

N_IMAGES, EPOCHS, EVALUATIONS = 60_000, 100, 20  # of Fashion-MNIST, and of a run of Table 5
WARM_SECONDS, TABLE_SECONDS = 12, 150
RUN = {"dataset": "noise", "extractor": "domain", "epochs": EPOCHS, "eval_every": EPOCHS // EVALUATIONS}
SHORT = {"epochs": 5, "eval_every": 5}


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.fail("these tests need an NVIDIA GPU, and torch sees none")


@pytest.fixture(scope="module", autouse=True)
def noise(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> None:
    """Grey images of ten classes, each noise around a pattern of its own; their classifier is trained here, once."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 10, N_IMAGES)
    patterns = draw.integers(0, 192, (10, 28, 28))
    images = (patterns[labels] + draw.integers(0, 64, (N_IMAGES, 28, 28))).astype(np.uint8)
    np.savez(file := tmp_path_factory.mktemp("noise") / "noise.npz", images=images, labels=labels)
    stage_dataset("noise", 32, file)
    load_classifier("noise", 32)


def configs(n: int, **fields: Any) -> list[RunConfig]:
    return [build_config(RUN, {"seed": seed, **fields}) for seed in range(n)]


def run_all(runs: list[RunConfig], out: Path, at_once: int) -> RunQueue:
    """A process of its own for a single one, else workers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    queue = RunQueue([plan_run(run, out) for run in runs], out, at_once, environment, gpus=[gpu])
    queue.wait()
    said = [outcome.last_line for outcome in queue.outcomes if outcome.exit_status]
    assert not said, said
    return queue


def seconds_of(folder: RunFolder) -> float:
    """From when its worker got the run to its last record."""
    started = folder.config_file.stat().st_mtime
    return folder.read_status()["updated"] - started


@pytest.mark.parametrize("step", ["auto", "compiled"])
def test_a_run_in_a_warm_worker(step: str, tmp_path: Path) -> None:
    runs = configs(3, step=step)
    run_all(runs, tmp_path, at_once=1)
    folders = [RunFolder(tmp_path / run.run_id) for run in runs]
    seconds = [seconds_of(folder) for folder in folders]
    print(f"\n{EPOCHS} epochs with {EVALUATIONS} evaluations, step = {step}, in one worker: ", end="")
    print(", ".join(f"{each:.1f}" for each in seconds), "s; of the last, s by part:")
    parts: dict[str, float] = {}
    for record in folders[-1].read_records():
        for key, value in record.items():
            if key.endswith("_seconds"):
                parts[key] = parts.get(key, 0.0) + value
    print("  ".join(f"{key.removeprefix('time/')} {value:.2f}" for key, value in parts.items()))
    if step == "auto":
        assert min(seconds[1:]) < WARM_SECONDS


def test_the_runs_of_table_5(tmp_path: Path) -> None:
    """Six variants with five seeds each, as many at once as the GPU allows, seeds side by side."""
    variants = ("aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear")
    runs = [config for variant in variants for config in configs(5, variant=variant)]
    started = time.perf_counter()
    outcomes = run_locally(runs, tmp_path, at_once="auto", seeds_at_once="auto")
    seconds = time.perf_counter() - started
    print(f"\n{len(runs)} runs of {EPOCHS} epochs with {EVALUATIONS} evaluations each: {seconds:.0f} s")
    assert [outcome.last_line for outcome in outcomes if outcome.exit_status] == []
    assert seconds < TABLE_SECONDS


@pytest.mark.parametrize("step", ["auto", "compiled"])
def test_workers_beside_one_another_train_as_one_alone(step: str, tmp_path: Path) -> None:
    together, alone = configs(6, **SHORT, step=step), configs(2, **SHORT, step=step)
    run_all(together, tmp_path / "together", at_once=3)
    for run in alone:
        run_all([run], tmp_path / "alone", at_once=1)
        assert_same_run(RunFolder(tmp_path / "together" / run.run_id), RunFolder(tmp_path / "alone" / run.run_id))


def test_other_kinds_before_it_do_not_change_a_run(tmp_path: Path) -> None:
    kinds = [
        {"mixed_precision": "bf16", "step": "compiled"},
        {"mixed_precision": "tf32", "ema_decay": 0.9},
        {"variant": "kld_loss", "step": "compiled"},
        {"architecture": "conv", "batch_size": 256},
        {"seed": 7, "step": "compiled"},
    ]
    runs = [build_config(RUN, SHORT, kind) for kind in kinds]
    run_all(runs, tmp_path / "worker", at_once=1)
    for run in runs:
        run_all([run], tmp_path / "alone", at_once=1)
        assert_same_run(RunFolder(tmp_path / "worker" / run.run_id), RunFolder(tmp_path / "alone" / run.run_id))


def test_as_many_share_the_gpu_as_the_probe_says(tmp_path: Path) -> None:
    """The probe's figure against what the driver counts while a run of the same kind trains."""
    runs = configs(8, **SHORT)
    demand = measure_demand(runs[0].model_dump(mode="json"), os.environ | {"PYTHONPATH": str(ROOT)})
    assert demand is not None
    at_once = choose_local("auto", runs, tmp_path)
    before = torch.cuda.mem_get_info()[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    least = before
    folder = RunFolder(tmp_path / runs[0].run_id)
    folder.ask_for(runs[0].model_dump(mode="json"))
    command = [sys.executable, "-m", "harness.train", "--config", str(folder.config_file), "--out", str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            least = min(least, torch.cuda.mem_get_info()[0])
            time.sleep(0.02)
    taken = before - least
    print(f"\nprobe: {demand.needed / 1e9:.2f} GB a run, taken {taken / 1e9:.2f} GB; auto: {at_once} at once")
    assert process.returncode == 0
    assert 0.7 < demand.needed / taken < 3
    assert at_once >= 1
    started = time.perf_counter()
    run_all(runs[1:], tmp_path, at_once)
    print(f"{len(runs) - 1} runs at {at_once} at once: {time.perf_counter() - started:.1f} s")
