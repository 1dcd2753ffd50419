"""`aaebench doctor`: this machine, SLURM, the data, and on request a job, checked before the night.

`python -m slurm.doctor inside ...` is what it runs in each task of a job; `count`, under a launcher, says how many
processes that starts.
"""

import json
import mmap
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from harness.data.cache import cache_folder
from harness.errors import InputError, RunsFailedError
from harness.settings import parse_yaml
from harness.terminal import build_output, console
from slurm.cluster import ask, has_slurm, require_slurm, run_in_job
from slurm.plan import find_missing_inputs
from slurm.process import Peers, choose_port
from slurm.request import SlurmOptions, build_options
from slurm.submission import sweep_folder
from slurm.sweep import Sweep

PROBLEM_GB, WARNING_GB = 1, 10
SHARED_FILE, SHARED_LOCK = "seen-from-the-submitting-host", "held-by-the-submitting-host"
LOCKS = "mount it with locks (NFS: without nolock; Lustre: with flock)"
CHOICES = "--out, AAEBENCH_CACHE, TMPDIR"
SIGNS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
USABLE = {"idle", "mixed", "allocated", "completing", "planned", "powered_down", "powering_up", "powering_down"}
# What follows a node's state: powered down, being powered up or down, planned for. All come back when a job wants them.
# Any other mark means that it does not: * is not responding, $ under maintenance, @ and ^ about to reboot.
USABLE_MARKS = {"", "~", "#", "%", "!", "-", "+"}


@dataclass(frozen=True)
class CheckResult:
    """What one check found: a `problem` makes runs fail, a `warning` may. `remedy` says what to do."""

    level: Literal["ok", "warning", "problem"]
    check: str
    what: str
    remedy: str = ""
    host: str = ""


def run_doctor(sweep: Sweep | None, out: Path, in_job: bool, as_json: bool) -> None:
    """Print each result as it comes. Raises: RunsFailedError if something would make runs fail."""
    results = []
    terminal = build_output()
    options = sweep.slurm if sweep is not None else build_options({}, "defaults")
    for result in _find(sweep, options, out, in_job):
        results.append(result)
        if not as_json:
            host = f" [{result.host}]" if result.host else ""
            remedy = f"\n         -> {result.remedy}" if result.remedy else ""
            line = f"{SIGNS[result.level]}  {result.check}{host}: {result.what}{remedy}"
            terminal.print(line, soft_wrap=True)
    if as_json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    problems = sum(result.level == "problem" for result in results)
    if problems:
        raise RunsFailedError(f"{problems} problems would make runs fail")


def _find(sweep: Sweep | None, options: SlurmOptions, out: Path, in_job: bool) -> Iterator[CheckResult]:
    with console.status("checking this machine"):
        yield from check_machine(out, sweep.name if sweep is not None else "", gpus_wanted=False)
    yield from check_run_folders(sweep, out)
    yield from check_inputs(sweep)
    yield from check_slurm(options)
    if in_job:
        with console.status("waiting for a job"):
            yield from check_job(options, out, sweep.name if sweep is not None else "")


def check_machine(out: Path, sweep: str, gpus_wanted: bool) -> Iterator[CheckResult]:
    """Everything that can be checked on the machine that this runs on."""
    yield from check_versions()
    yield from check_gpus(gpus_wanted)
    yield from check_launcher()
    for name, folder in list_folders(out, sweep):
        yield from check_folder(name, folder)
    yield from check_host_name()


def list_folders(out: Path, sweep: str) -> list[tuple[str, Path]]:
    """What is written to by a sweep's commands and runs, or what is there of the path to it, and what for."""
    cache = existing(cache_folder())
    parts = [path for path in sorted(cache.iterdir()) if path.is_dir()] if cache == cache_folder().absolute() else []
    named = [("run folders", existing(out)), ("sweep", existing(sweep_folder(out, sweep) if sweep else out / "sweeps"))]
    named += [("cache", folder) for folder in (cache, *parts)]
    named.append(("temporary files", Path(tempfile.gettempdir())))
    return list({folder: (name, folder) for name, folder in reversed(named)}.values())[::-1]


def check_versions() -> Iterator[CheckResult]:
    """Whether the installed packages are those that aaebench, and each of them, asks for."""
    try:
        asked = [Requirement(line) for line in distribution("aaebench").requires or []]
    except PackageNotFoundError:
        yield CheckResult("warning", "versions", "aaebench is not installed", "python -m pip install -e .")
        return
    direct = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [("aaebench", each, found) for each in direct if (found := _misfit(each)) is not None]
    for name in (each.name for each in direct if _installed(each.name)):
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            if (found := _misfit(needed)) is not None:
                wrong.append((name, needed, found))
    for owner, needed, found in wrong:
        what = f"{owner} needs {needed.name}{needed.specifier}, there is {found}"
        yield CheckResult("problem", "versions", what, f"python -m pip install '{needed.name}{needed.specifier}'")
    if not wrong:
        names = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "accelerate", "submitit"))
        yield CheckResult("ok", "versions", f"Python {sys.version.split()[0]}, {names} fit each other")


def check_gpus(wanted: bool) -> Iterator[CheckResult]:
    """Whether torch sees the GPUs that the driver does, and computes on each."""
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            try:
                torch.ones(64, 64, device=f"cuda:{index}").matmul(
                    torch.ones(64, 64, device=f"cuda:{index}")
                ).sum().item()
            except RuntimeError as error:
                yield CheckResult("problem", "GPU", f"{name} does not compute: {error}", "install a torch built for it")
            else:
                yield CheckResult("ok", "GPU", f"{index}: {name}, CUDA {torch.version.cuda}")
        return
    built = f"torch {torch.__version__} is built for " + (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shutil.which("nvidia-smi") is not None:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split("\n")[0] or "unknown"
        remedy = "install a torch that fits the driver: https://pytorch.org/get-started/locally"
        yield CheckResult("problem", "GPU", f"torch sees no GPU: the driver is {driver}, {built}", remedy)
    elif wanted:
        what = f"a GPU was asked for (CUDA_VISIBLE_DEVICES={visible!r}) and there is no driver; {built}"
        yield CheckResult(
            "problem", "GPU", what, "ask for a partition with GPUs, or set gpus_per_node: 0 and tasks_per_node"
        )
    else:
        yield CheckResult("ok", "GPU", f"none here: runs would use the CPU; {built}")


def check_launcher() -> Iterator[CheckResult]:
    """Whether `accelerate launch`, as it is set up here, starts the processes that it was set up for."""
    from accelerate.commands.config.config_args import default_config_file  # noqa: PLC0415 (slow to import)

    from harness.launch.launcher import TASKS  # noqa: PLC0415

    file = Path(default_config_file)
    if not file.is_file():
        yield CheckResult("ok", "accelerate", "no configuration file: each launch says how many processes it wants")
        return
    try:
        content: dict[str, Any] = parse_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        yield CheckResult("problem", "accelerate", f"{file} cannot be read: {error}", "make it anew: accelerate config")
        return
    wanted = int(content.get("num_processes") or 1)
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "-m", "slurm.doctor", "count"]
    outside = {name: value for name, value in os.environ.items() if name not in TASKS}  # of a job's own tasks
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=outside | _own_code())
    counted = [line.removeprefix("num_processes=") for line in answer.stdout.splitlines() if "num_processes=" in line]
    if counted and int(counted[0]) == wanted:
        yield CheckResult("ok", "accelerate", f"{file} starts {wanted} processes")
    else:
        got = f"{counted[0]} that train together" if counted else "fewer, with which no run starts"
        kind = content.get("distributed_type")
        what = f"{file} (distributed_type {kind}) asks for {wanted} processes and starts {got}"
        remedy = f"remove the file and launch with: accelerate launch --multi_gpu --num_processes {wanted}"
        yield CheckResult("problem", "accelerate", what, f"{remedy} (on CPUs, ACCELERATE_USE_CPU=true before it)")
    if (precision := content.get("mixed_precision", "no")) != "no":
        what = f"{file} sets mixed_precision {precision}, which is part of a run's identity"
        yield CheckResult("warning", "accelerate", what, "remove it there; give --mixed-precision to the run")


def check_folder(name: str, folder: Path) -> Iterator[CheckResult]:
    """Whether a folder can be written, renamed, locked and mapped in, and has room."""
    content = os.urandom(1 << 16)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-", ignore_cleanup_errors=True) as temporary:
            written, renamed, lock = (Path(temporary) / each for each in ("a", "b", "lock"))
            written.write_bytes(content)
            written.replace(renamed)
            with renamed.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if mapped[:] != content:
                    raise OSError("a file that is mapped does not hold what was written")
            with FileLock(lock, timeout=0):
                code = f"from filelock import FileLock; FileLock({str(lock)!r}).acquire(timeout=0)"
                second = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    except (OSError, Timeout, ValueError) as error:
        yield CheckResult("problem", name, f"{folder}: {error}", f"choose another folder ({CHOICES})")
        return
    if second:
        yield CheckResult("problem", name, f"{folder}: two processes get the same lock", LOCKS)
    free = shutil.disk_usage(folder).free / 1e9
    level = "problem" if free < PROBLEM_GB else "warning" if free < WARNING_GB else "ok"
    remedy = "" if level == "ok" else f"free some space, or choose another folder ({CHOICES})"
    yield CheckResult(level, name, f"{folder}: writes, renames, maps, locks; {free:.0f} GB free", remedy)


def check_run_folders(sweep: Sweep | None, out: Path) -> Iterator[CheckResult]:
    """Whether the run folders that the sweep's runs have already are this user's to write in."""
    folders = [out / config.run_id for config in sweep.configs] if sweep is not None else []
    theirs = [folder for folder in folders if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)]
    if theirs:
        what = f"{len(theirs)} run folders cannot be written in, as {theirs[0]} of {theirs[0].owner()}"
        yield CheckResult(
            "problem", "run folders", what, "have their group write in them (chmod -R g+rwX), or choose --out"
        )


def check_host_name() -> Iterator[CheckResult]:
    yield from check_resolves([socket.gethostname()])


def check_resolves(names: list[str]) -> Iterator[CheckResult]:
    """Whether host names can be looked up: the ranks of a job meet at the first one's."""
    unknown = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            unknown.append(name)
    if unknown:
        what = f"cannot be looked up here: {', '.join(unknown)}"
        yield CheckResult(
            "problem", "host names", what, "add them to DNS or /etc/hosts; several nodes cannot meet without"
        )
    else:
        yield CheckResult("ok", "host names", f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")


def check_shared(folder: Path) -> Iterator[CheckResult]:
    """In a job: whether it sees the submitting host's file and respects its lock."""
    if not (folder / SHARED_FILE).exists():
        what = f"{folder} is not shared: the job does not see what the submitting host wrote"
        yield CheckResult("problem", "shared file system", what, "give --out a folder on a file system of all nodes")
        return
    try:
        FileLock(folder / SHARED_LOCK).acquire(timeout=0)
    except Timeout:
        yield CheckResult(
            "ok", "shared file system", f"{folder}: files and locks of the submitting host hold in the job"
        )
    else:
        what = f"{folder}: a lock of the submitting host does not hold in the job"
        yield CheckResult("problem", "shared file system", what, LOCKS)


def check_rendezvous(peers: Peers) -> Iterator[CheckResult]:
    """In a job of several tasks: whether they meet and count one another."""
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    os.environ.update(peers.describe_rendezvous(0))
    distributed.init_process_group("gloo")
    total = torch.ones(1)
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    level = "ok" if total.item() == peers.world_size else "problem"
    yield CheckResult(level, "rendezvous", f"{total.item():.0f} of {peers.world_size} tasks met at {peers.address}")


def check_inputs(sweep: Sweep | None) -> Iterator[CheckResult]:
    """Whether the data and weights that the sweep needs, or any at all, are staged."""
    if sweep is None:
        staged = sorted(path.stem for path in (cache_folder() / "data").glob("*.safetensors"))
        yield CheckResult(
            "ok", "data", f"staged: {', '.join(staged) or 'nothing yet'}; name a sweep to check what it needs"
        )
        return
    missing = find_missing_inputs(sweep.configs)
    for line in missing:
        what, _, remedy = line.partition("; ")
        yield CheckResult("problem", "data", what, remedy)
    if not missing:
        yield CheckResult("ok", "data", f"everything that {sweep.name} needs is staged")


def check_slurm(options: SlurmOptions) -> Iterator[CheckResult]:
    """Whether SLURM answers, has the partition with nodes that work and enough time, and its nodes have addresses."""
    if not has_slurm():
        yield CheckResult("ok", "SLURM", "none on this machine: sweeps run here (--executor local)")
        return
    try:
        require_slurm()
    except InputError as error:
        yield CheckResult("problem", "SLURM", str(error), "ask the cluster's administrators; scontrol ping says more")
        return
    lines = [line.split("|") for line in ask("sinfo", "--noheader", "--format=%P|%a|%D|%T|%G|%N").stdout.splitlines()]
    names = sorted({line[0].rstrip("*") for line in lines})
    wanted = options.partition or next((line[0].rstrip("*") for line in lines if line[0].endswith("*")), None)
    mine = [line for line in lines if line[0].rstrip("*") == wanted]
    if not mine:
        what = f"there is no partition {wanted}" if wanted else "there is no default partition"
        yield CheckResult("problem", "SLURM", what, f"set slurm.partition to one of {', '.join(names)}")
        return
    working = [line for line in mine if line[1] == "up" and is_usable(line[3])]
    states = ", ".join(f"{line[2]} {line[3]} ({line[4]})" for line in mine)
    if sum(int(line[2]) for line in working) < options.nodes:
        remedy = "choose another partition (slurm.partition), or wait: sinfo -R says why nodes are down"
        yield CheckResult("problem", "SLURM", f"partition {wanted} has too few working nodes: {states}", remedy)
    elif options.gpus_per_node and not any("gpu" in line[4] for line in working):
        remedy = "choose another partition, or set gpus_per_node: 0"
        yield CheckResult("problem", "SLURM", f"no working node of partition {wanted} has GPUs: {states}", remedy)
    else:
        yield CheckResult("ok", "SLURM", f"partition {wanted}: {states}; all: {', '.join(names)}")
    if options.nodes > 1:
        nodes = ask("scontrol", "show", "hostnames", ",".join(line[5] for line in mine)).stdout.split()
        yield from check_resolves(nodes[:64])


def is_usable(state: str) -> bool:
    """Whether a node in this state, as sinfo's %T writes it, runs jobs or will when one wants it."""
    found = re.fullmatch(r"([a-z_]+)(\W?)", state)
    return found is not None and found[1] in USABLE and found[2] in USABLE_MARKS


def check_job(options: SlurmOptions, out: Path, sweep: str) -> Iterator[CheckResult]:
    """The same checks inside a job with these options, and what only a job can tell: shared files, locks, meeting."""
    parent = existing(out)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".doctor-") as temporary:
        shared = Path(temporary)
        (shared / SHARED_FILE).touch()
        with FileLock(shared / SHARED_LOCK):
            arguments = ("inside", str(out.absolute()), str(shared), str(options.gpus_per_node), sweep)
            try:
                printed = run_in_job(options, "slurm.doctor", *arguments, folders=[parent, cache_folder()])
            except InputError as error:
                yield CheckResult("problem", "job", str(error), "mend what it says; see the slurm block of the sweep")
                return
    for line in printed.splitlines():
        if line.startswith("{"):
            yield CheckResult(**json.loads(line))


def existing(folder: Path) -> Path:
    """The folder, or what is there of the path to it."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _misfit(needed: Requirement) -> str | None:
    """What is there instead of what is needed; None if that is there."""
    if not _installed(needed.name):
        return "none"
    found = version(needed.name)
    return None if needed.specifier.contains(found, prereleases=True) else found


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _own_code() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}


def check_inside(out: str, shared: str, gpus: str, sweep: str) -> None:
    """In each task of a job: print what is found, each a line of JSON."""
    rank, world_size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    local_rank = int(os.environ["SLURM_LOCALID"])
    results = list(check_shared(Path(shared)))
    if local_rank == 0:
        results += check_machine(Path(out), sweep, int(gpus) > 0)
    if world_size > 1:
        from submitit.slurm.slurm import SlurmJobEnvironment  # noqa: PLC0415

        address, port = SlurmJobEnvironment().hostnames[0], choose_port(os.environ["SLURM_JOB_ID"], restarts=0)
        results += check_rendezvous(Peers(Path(shared), rank, world_size, local_rank, 1, address, port))
    host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    for result in results:  # short lines: srun mixes the tasks' lines, and breaks long ones
        line = asdict(result) | {"host": f"{host}, task {rank}", "what": result.what[:500]}
        print(json.dumps(line), flush=True)


def count_processes() -> None:
    """Under `accelerate launch`: print how many processes train together in the set-up that it was given."""
    from harness.launch.processes import build_accelerator  # noqa: PLC0415
    from harness.precision import Precision  # noqa: PLC0415

    accelerator = build_accelerator(cast(Precision, os.environ.get("ACCELERATE_MIXED_PRECISION", "no")))
    if accelerator.is_main_process:
        print(f"num_processes={accelerator.num_processes}")


if __name__ == "__main__":
    check_inside(*sys.argv[2:]) if sys.argv[1] == "inside" else count_processes()
