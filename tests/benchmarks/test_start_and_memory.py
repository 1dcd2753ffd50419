"""How soon the command line answers, and how much memory a run takes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


def test_help_answers_within_half_a_second(aaebench: str) -> None:
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([aaebench, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    print(f"\naaebench --help: {median(seconds):.2f} s")
    assert median(seconds) < 0.5


def test_fashion_mnist_trains_and_evaluates_in_one_and_a_half_gigabytes(fashion_mnist: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", "fashion_mnist", "--epochs", "1", "--extractor", "domain", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "harness.train", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    print(f"\npeak memory of a run on Fashion-MNIST: {gigabytes:.2f} GB")
    assert status == 0
    assert gigabytes < 1.5
