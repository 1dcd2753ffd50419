"""The commands over many runs: `aaebench sweep`."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from harness.errors import InputError


def submit(
    sweep: Path,
    /,
    *,
    out: Path = Path("runs"),
    executor: Literal["local"] = "local",
    at_once: Annotated[int, Parameter(show_default=False)] = 0,
) -> None:
    """Run a sweep: what is done is left, what was interrupted is resumed, what fails stops nothing else; prints OUT.

    Parameters
    ----------
    sweep
        A YAML file with a grid over fields of a run, or the name of a shipped one, as mapping_depth.
    out
        The folder that holds run folders.
    executor
        Where: on this machine.
    at_once
        Processes at a time. [default: half of the cores]
    """
    # ruff: noqa: PLC0415
    from slurm.local import require_all_done, run_locally
    from slurm.sweep import SHIPPED, load_sweep

    if at_once < 0:
        raise InputError(f"--at-once {at_once} is no number of processes; 1 or more, or 0 for half of the cores")
    shipped = SHIPPED / f"{sweep}.yaml"
    configs = load_sweep(shipped if shipped.is_file() else sweep)
    outcomes = run_locally(configs, out, at_once or max(1, (os.cpu_count() or 1) // 2))
    require_all_done(outcomes)
    print(out)
