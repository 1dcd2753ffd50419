"""Two processes against one on the same cores, and the memory of a long run."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.harness.launch.test_processes import finish, launch
from tests.harness.test_train import ROOT, only_folder

RUN = ("-m", "harness.train", "--dataset", "fashion_mnist", "--extractor", "domain")
QUIET = ("--set", "eval_every=1000", "--set", "checkpoint_every=1000", "--set", "n_fake=2048")


def measure_throughput(out: Path, num_processes: int) -> float:
    """Images a second in the median of eight epochs of 16,384 images, with two threads in all."""
    arguments = (*RUN, *QUIET, "--epochs", "9", "--set", "max_images=16384")
    finish(launch(out, num_processes, *arguments, threads=2 // num_processes))
    return median(record["time/images_per_second"] for record in only_folder(out).read_records()[2:])


def test_two_processes_of_one_thread_against_one_of_two(fashion_mnist: Path, tmp_path: Path) -> None:
    ratios = []
    for turn in range(3):
        speeds = {n: measure_throughput(tmp_path / f"{turn}-{n}", n) for n in ((1, 2), (2, 1))[turn % 2]}
        ratios.append(speeds[2] / speeds[1])
    print(f"\nimages/s of two processes / of one, same cores and batch: {median(ratios):.3f} {ratios}")
    assert median(ratios) >= 0.85


@pytest.mark.timeout(3600)
def test_a_hundred_epochs_of_fashion_mnist_grow_by_less_than_twenty_megabytes(
    fashion_mnist: Path, tmp_path: Path
) -> None:
    """Resident memory at the ends of epochs; evaluated at epochs 0, 50 and 100, of which the last is not looked at."""
    options = ("--epochs", "100", "--set", "eval_every=50", "--set", "checkpoint_every=1")
    process = subprocess.Popen(
        [sys.executable, *RUN, *options, "--out", str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    memory: dict[int, float] = {}
    while process.poll() is None:
        status = next(iter(tmp_path.glob("*/status.json")), None)
        epoch = json.loads(status.read_text()).get("epoch", 0) if status else 0
        if 0 < epoch < 100 and epoch not in memory:
            memory[epoch] = psutil.Process(process.pid).memory_info().rss / 1e6
        time.sleep(0.05)
    assert process.returncode == 0
    growth = max(memory[epoch] for epoch in memory if epoch not in (50, 51)) - memory[1]
    print(f"\nmemory after epoch 1: {memory[1]:.0f} MB, growth until epoch 99: {growth:+.1f} MB")
    assert growth < 20
