"""Where and with what a run ran."""

import os
import platform
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import harness
from harness.data.sets import TrainingSet
from harness.record import RECORD_VERSION
from harness.training.engine import Engine

SNAPSHOT_COMMIT = "GIT_COMMIT"  # a copy of the code has its commit in this file, beside the packages
PACKAGES = ("torch", "accelerate", "numpy")


def describe_environment(engine: Engine, data: TrainingSet, seeds: int) -> dict[str, Any]:
    """What environment.json holds: commit, versions, hardware, processes, command, checksum of the data.

    Args: seeds: how many runs were trained side by side.
    """
    processes = engine.processes
    gpu = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else None
    return {
        "record_version": RECORD_VERSION,
        "started": time.time(),
        "git_commit": read_git_commit(),
        "versions": read_versions(),
        "hostname": socket.gethostname(),
        "device": processes.device.type,
        "gpu": gpu,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "num_processes": processes.num_processes,
        "distributed_type": str(processes.accelerator.distributed_type),
        "zero_stage": engine.zero_stage,
        "step": engine.way,
        "seeds_at_once": seeds,
        "command": sys.argv,
        "data_sha256": data.sha256,
        "data": data.describe(),
    }


def read_versions() -> dict[str, str]:
    """Of this project, of Python, and of the packages that decide a run's numbers."""
    own = {"python": platform.python_version(), "aaebench": harness.__version__}
    return own | {name: version(name) for name in PACKAGES}


def read_git_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` if it was changed; None outside a checkout and a snapshot."""
    root = Path(__file__).parents[2]
    if (root / SNAPSHOT_COMMIT).exists():
        return (root / SNAPSHOT_COMMIT).read_text(encoding="utf-8").strip() or None
    if not (root / ".git").exists():  # installed, perhaps inside of somebody else's checkout
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
