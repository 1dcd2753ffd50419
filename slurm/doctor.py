"""`aaebench doctor`: this machine, SLURM, the data, and on request a job, checked before the night."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from harness.data.cache import cache_folder
from harness.errors import InputError, RunsFailedError
from harness.terminal import console
from slurm.checks import SHARED_FILE, SHARED_LOCK, Finding, check_machine, check_resolves, existing
from slurm.options import SlurmOptions, build_options
from slurm.plan import find_missing_inputs
from slurm.queue import has_slurm, require_slurm
from slurm.srun import run_in_job
from slurm.sweep import Sweep

SIGNS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}


def run_doctor(sweep: Sweep | None, out: Path, in_job: bool, as_json: bool) -> None:
    """Print each finding as it comes. Raises: RunsFailedError if something would make runs fail."""
    findings = []
    terminal = Console(highlight=False, markup=False, soft_wrap=True)
    options = sweep.slurm if sweep is not None else build_options({}, "defaults")
    for finding in _find(sweep, options, out, in_job):
        findings.append(finding)
        if not as_json:
            host = f" [{finding.host}]" if finding.host else ""
            remedy = f"\n         -> {finding.remedy}" if finding.remedy else ""
            terminal.print(f"{SIGNS[finding.level]}  {finding.check}{host}: {finding.what}{remedy}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    problems = sum(finding.level == "problem" for finding in findings)
    if problems:
        raise RunsFailedError(f"{problems} problems would make runs fail")


def _find(sweep: Sweep | None, options: SlurmOptions, out: Path, in_job: bool) -> Iterator[Finding]:
    with console.status("checking this machine"):
        yield from check_machine(out, gpus_wanted=False)
    yield from check_inputs(sweep)
    yield from check_slurm(options)
    if in_job:
        with console.status("waiting for a job"):
            yield from check_job(options, out)


def check_inputs(sweep: Sweep | None) -> Iterator[Finding]:
    """Whether the data and weights that the sweep needs, or any at all, are staged."""
    if sweep is None:
        staged = sorted(path.stem for path in (cache_folder() / "data").glob("*.safetensors"))
        yield Finding(
            "ok", "data", f"staged: {', '.join(staged) or 'nothing yet'}; name a sweep to check what it needs"
        )
        return
    missing = find_missing_inputs(sweep.configs)
    for line in missing:
        what, _, remedy = line.partition("; ")
        yield Finding("problem", "data", what, remedy)
    if not missing:
        yield Finding("ok", "data", f"everything that {sweep.name} needs is staged")


def check_slurm(options: SlurmOptions) -> Iterator[Finding]:
    """Whether SLURM answers, has the partition with nodes that work and enough time, and its nodes have addresses."""
    if not has_slurm():
        yield Finding("ok", "SLURM", "none on this machine: sweeps run here (--executor local)")
        return
    try:
        require_slurm()
    except InputError as error:
        yield Finding("problem", "SLURM", str(error), "ask the cluster's administrators; scontrol ping says more")
        return
    lines = [line.split("|") for line in _ask("sinfo", "--noheader", "--format=%P|%a|%D|%T|%G|%N").splitlines()]
    names = sorted({line[0].rstrip("*") for line in lines})
    wanted = options.partition or next((line[0].rstrip("*") for line in lines if line[0].endswith("*")), None)
    mine = [line for line in lines if line[0].rstrip("*") == wanted]
    if not mine:
        what = f"there is no partition {wanted}" if wanted else "there is no default partition"
        yield Finding("problem", "SLURM", what, f"set slurm.partition to one of {', '.join(names)}")
        return
    working = [line for line in mine if line[1] == "up" and line[3].rstrip("*") in ("idle", "mixed", "allocated")]
    states = ", ".join(f"{line[2]} {line[3]} ({line[4]})" for line in mine)
    if sum(int(line[2]) for line in working) < options.nodes:
        remedy = "choose another partition (slurm.partition), or wait: sinfo -R says why nodes are down"
        yield Finding("problem", "SLURM", f"partition {wanted} has too few working nodes: {states}", remedy)
    elif options.gpus_per_node and not any("gpu" in line[4] for line in working):
        remedy = "choose another partition, or set gpus_per_node: 0"
        yield Finding("problem", "SLURM", f"no working node of partition {wanted} has GPUs: {states}", remedy)
    else:
        yield Finding("ok", "SLURM", f"partition {wanted}: {states}; all: {', '.join(names)}")
    if options.nodes > 1:
        nodes = _ask("scontrol", "show", "hostnames", ",".join(line[5] for line in mine)).split()
        yield from check_resolves(nodes[:64])


def check_job(options: SlurmOptions, out: Path) -> Iterator[Finding]:
    """The same checks inside a job with these options, and what only a job can tell: shared files, locks, meeting."""
    parent = existing(out)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".doctor-") as temporary:
        shared = Path(temporary)
        (shared / SHARED_FILE).touch()
        with FileLock(shared / SHARED_LOCK):
            arguments = (str(out.absolute()), str(shared), str(options.gpus_per_node))
            try:
                printed = run_in_job(options, "slurm.checks", *arguments, all_tasks=True)
            except InputError as error:
                yield Finding("problem", "job", str(error), "mend what it says; see the slurm block of the sweep")
                return
    for line in printed.splitlines():
        if line.startswith("{"):
            yield Finding(**json.loads(line))


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
