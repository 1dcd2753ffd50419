"""What a process was given counts, and not what the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.allocation import count_cores, list_gpus


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 cores, all of which this process may use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    return tmp_path


def test_without_limits_all_cores_count(root: Path) -> None:
    assert count_cores({}, root) == 64


def test_the_affinity_mask_counts() -> None:
    code = "from harness.allocation import count_cores; print(count_cores({}))"
    command = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("quota", "cores"), [("400000 100000", 4), ("150000 100000", 1), ("max 100000", 64)])
def test_the_quota_of_the_control_group_counts(root: Path, quota: str, cores: int) -> None:
    write(root / "proc/self/cgroup", "0::/user/run-1.scope\n")
    write(root / "sys/fs/cgroup/user/run-1.scope/cpu.max", f"{quota}\n")
    assert count_cores({}, root) == cores


def test_the_quota_of_a_group_above_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/pod/container\n")
    write(root / "sys/fs/cgroup/pod/container/cpu.max", "max 100000\n")
    write(root / "sys/fs/cgroup/pod/cpu.max", "200000 100000\n")
    assert count_cores({}, root) == 2


def test_control_groups_of_version_1_count(root: Path) -> None:
    write(root / "proc/self/cgroup", "12:memory:/job\n4:cpu,cpuacct:/job\n")
    write(root / "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "300000\n")
    write(root / "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert count_cores({}, root) == 3


def test_the_cores_of_a_slurm_task_count(root: Path) -> None:
    assert count_cores({"SLURM_CPUS_PER_TASK": "6"}, root) == 6


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "6,3"}, ["6", "3"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-5d,MIG-7a"}, ["GPU-5d", "MIG-7a"]),
        ({"ACCELERATE_USE_CPU": "true"}, []),
    ],
)
def test_gpus_are_those_that_are_visible(
    environment: dict[str, str], gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert list_gpus(environment) == gpus


def test_without_a_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert list_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == []
