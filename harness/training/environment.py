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

from harness.data.sets import TrainingSet
from harness.training.engine import Engine

SNAPSHOT_COMMIT = "GIT_COMMIT"  # a copy of the code has its commit in this file, beside the packages
PACKAGES = ("aaebench", "torch", "accelerate", "numpy")


def describe_environment(engine: Engine, data: TrainingSet) -> dict[str, Any]:
    """What environment.json holds: commit, versions, hardware, processes, command, checksum of the data."""
    processes = engine.processes
    gpu = torch.cuda.get_device_name(processes.device) if processes.device.type == "cuda" else None
    return {
        "started": time.time(),
        "git_commit": read_git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hostname": socket.gethostname(),
        "device": processes.device.type,
        "gpu": gpu,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "num_processes": processes.num_processes,
        "distributed_type": str(processes.accelerator.distributed_type),
        "zero_stage": engine.zero_stage,
        "compiled": engine.config.compile,
        "command": sys.argv,
        "data_sha256": data.sha256,
        "data": data.describe(),
    }


def read_git_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` if it was changed; None outside a checkout and a snapshot."""
    root = Path(__file__).parents[2]
    if (root / SNAPSHOT_COMMIT).exists():
        return (root / SNAPSHOT_COMMIT).read_text().strip() or None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
