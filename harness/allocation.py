"""The cores and GPUs that this process was given, which are often fewer than the machine has."""

import math
import os
from collections.abc import Mapping
from pathlib import Path


def count_cores(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """The cores of the affinity mask, of the control group's quota or of the SLURM task, whichever are fewest.

    Args: root: where /proc and /sys are found.
    """
    limits = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    limits += _read_quotas(root)
    if (of_task := environment.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(float(of_task))
    return max(1, math.floor(min(limits)))


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; none where runs were told to use the CPU."""
    if environment.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1"):
        return []
    import torch  # noqa: PLC0415 (slow; cores are counted without it)

    n = torch.cuda.device_count()
    named = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:n] if named else [str(index) for index in range(n)]


def _read_quotas(root: Path) -> list[float]:
    """The quotas, in cores, of this process's control groups and of all groups above them (versions 1 and 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    quotas = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        base = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        if controllers and "cpu" not in controllers.split(","):
            continue
        below = base / path.lstrip("/")
        for folder in (below, *(parent for parent in below.parents if parent.is_relative_to(base))):
            try:
                if controllers:
                    quota, period = (
                        (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
                    )
                else:
                    quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
                if quota.strip() not in ("max", "-1"):
                    quotas.append(int(quota) / int(period))
            except (OSError, ValueError):  # the root group has no quota; containers hide what is above them
                continue
    return quotas
