"""Checks of one machine: what `aaebench doctor` finds here, and `python -m slurm.checks` inside a job."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout
from packaging.requirements import Requirement

from harness.data.cache import cache_folder
from slurm.peers import PORTS, Peers

PROBLEM_GB, WARNING_GB = 1, 10
SHARED_FILE, SHARED_LOCK = "seen-from-the-submitting-host", "held-by-the-submitting-host"


@dataclass(frozen=True)
class Finding:
    """One finding: a `problem` makes runs fail, a `warning` may. `remedy` says what to do."""

    level: Literal["ok", "warning", "problem"]
    check: str
    what: str
    remedy: str = ""
    host: str = ""


def check_machine(out: Path, gpus_wanted: bool) -> Iterator[Finding]:
    """Everything that can be checked on the machine that this runs on."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        check_versions,
        lambda: check_gpus(gpus_wanted),
        check_launcher,
        lambda: check_folder("run folders", existing(out)),
        lambda: check_folder("cache", existing(cache_folder())),
        check_host_name,
    ]
    for check in checks:
        yield from check()


def check_versions() -> Iterator[Finding]:
    """Whether the installed packages are those that aaebench, and each of them, asks for."""
    try:
        asked = [Requirement(line) for line in distribution("aaebench").requires or []]
    except PackageNotFoundError:
        yield Finding("warning", "versions", "aaebench is not installed", "python -m pip install -e .")
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
        yield Finding("problem", "versions", what, f"python -m pip install '{needed.name}{needed.specifier}'")
    if not wrong:
        names = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "accelerate", "submitit"))
        yield Finding("ok", "versions", f"Python {sys.version.split()[0]}, {names} fit each other")


def check_gpus(wanted: bool) -> Iterator[Finding]:
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
                yield Finding("problem", "GPU", f"{name} does not compute: {error}", "install a torch built for it")
            else:
                yield Finding("ok", "GPU", f"{index}: {name}, CUDA {torch.version.cuda}")
        return
    built = f"torch {torch.__version__} is built for " + (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if shutil.which("nvidia-smi") is not None:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.split("\n")[0] or "unknown"
        remedy = "install a torch that fits the driver: https://pytorch.org/get-started/locally"
        yield Finding("problem", "GPU", f"torch sees no GPU: the driver is {driver}, {built}", remedy)
    elif wanted:
        what = f"a GPU was asked for (CUDA_VISIBLE_DEVICES={visible!r}) and there is no driver; {built}"
        yield Finding(
            "problem", "GPU", what, "ask for a partition with GPUs, or set gpus_per_node: 0 and tasks_per_node"
        )
    else:
        yield Finding("ok", "GPU", f"none here: runs would use the CPU; {built}")


def check_launcher() -> Iterator[Finding]:
    """Whether `accelerate launch`, as it is set up here, starts the processes that it was set up for."""
    from accelerate.commands.config.config_args import default_config_file  # noqa: PLC0415 (slow to import)

    file = Path(default_config_file)
    if not file.is_file():
        yield Finding("ok", "accelerate", "no configuration file: each launch says how many processes it wants")
        return
    content: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
    wanted = int(content.get("num_processes") or 1)
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "-m", "slurm.world_size"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | _own_code())
    counted = [line.removeprefix("num_processes=") for line in answer.stdout.splitlines() if "num_processes=" in line]
    if counted and int(counted[0]) == wanted:
        yield Finding("ok", "accelerate", f"{file} starts {wanted} processes")
    else:
        got = f"{counted[0]} that train together" if counted else "fewer, with which no run starts"
        kind = content.get("distributed_type")
        what = f"{file} (distributed_type {kind}) asks for {wanted} processes and starts {got}"
        remedy = f"remove the file and launch with: accelerate launch --multi_gpu --num_processes {wanted}"
        yield Finding("problem", "accelerate", what, f"{remedy} (on CPUs, ACCELERATE_USE_CPU=true before it)")
    if (precision := content.get("mixed_precision", "no")) != "no":
        what = f"{file} sets mixed_precision {precision}, which is part of a run's identity"
        yield Finding("warning", "accelerate", what, "remove it there; give --mixed-precision to the run")


def check_folder(name: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder can be written, renamed in and locked, and has room."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as temporary:
            (Path(temporary) / "a").write_text("a")
            (Path(temporary) / "a").replace(Path(temporary) / "b")
            with FileLock(Path(temporary) / "lock", timeout=0):
                code = f"from filelock import FileLock; FileLock({str(Path(temporary) / 'lock')!r}).acquire(timeout=0)"
                second = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    except (OSError, Timeout) as error:
        yield Finding("problem", name, f"{folder}: {error}", "choose another folder (--out, AAEBENCH_CACHE)")
        return
    if second:
        remedy = "mount it with locks (NFS: without nolock; Lustre: with flock)"
        yield Finding("problem", name, f"{folder}: two processes get the same lock", remedy)
    free = shutil.disk_usage(folder).free / 1e9
    level = "problem" if free < PROBLEM_GB else "warning" if free < WARNING_GB else "ok"
    remedy = "" if level == "ok" else "free some space, or choose another folder (--out, AAEBENCH_CACHE)"
    yield Finding(level, name, f"{folder}: writes, renames, locks; {free:.0f} GB free", remedy)


def check_host_name() -> Iterator[Finding]:
    yield from check_resolves([socket.gethostname()])


def check_resolves(names: list[str]) -> Iterator[Finding]:
    """Whether host names can be looked up: the ranks of a job meet at the first one's."""
    unknown = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            unknown.append(name)
    if unknown:
        what = f"cannot be looked up here: {', '.join(unknown)}"
        yield Finding("problem", "host names", what, "add them to DNS or /etc/hosts; several nodes cannot meet without")
    else:
        yield Finding("ok", "host names", f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}")


def check_shared(folder: Path) -> Iterator[Finding]:
    """In a job: whether it sees the submitting host's file and respects its lock."""
    if not (folder / SHARED_FILE).exists():
        what = f"{folder} is not shared: the job does not see what the submitting host wrote"
        yield Finding("problem", "shared file system", what, "give --out a folder on a file system of all nodes")
        return
    try:
        FileLock(folder / SHARED_LOCK).acquire(timeout=0)
    except Timeout:
        yield Finding("ok", "shared file system", f"{folder}: files and locks of the submitting host hold in the job")
    else:
        what = f"{folder}: a lock of the submitting host does not hold in the job"
        yield Finding("problem", "shared file system", what, "mount it with locks (NFS: without nolock; Lustre: flock)")


def check_rendezvous(peers: Peers) -> Iterator[Finding]:
    """In a job of several tasks: whether they meet and count one another."""
    import torch  # noqa: PLC0415
    from torch import distributed  # noqa: PLC0415

    os.environ.update(peers.describe_rendezvous(0))
    distributed.init_process_group("gloo")
    total = torch.ones(1)
    distributed.all_reduce(total)
    distributed.destroy_process_group()
    level = "ok" if total.item() == peers.world_size else "problem"
    yield Finding(level, "rendezvous", f"{total.item():.0f} of {peers.world_size} tasks met at {peers.address}")


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


def main() -> None:
    """`python -m slurm.checks OUT SHARED GPUS` in each task of a job: its findings, each a line of JSON."""
    out, shared, gpus = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    rank, world_size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    findings = list(check_shared(shared))
    if os.environ["SLURM_LOCALID"] == "0":
        findings += check_machine(out, gpus > 0)
    if world_size > 1:
        from submitit.slurm.slurm import SlurmJobEnvironment  # noqa: PLC0415

        address, job = SlurmJobEnvironment().hostnames[0], int(os.environ["SLURM_JOB_ID"])
        local = int(os.environ["SLURM_LOCALID"])
        findings += check_rendezvous(Peers(shared, rank, world_size, local, 1, address, job * 997 % PORTS))
    host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    for finding in findings:  # short lines: srun mixes the tasks' lines, and breaks long ones
        line = asdict(finding) | {"host": f"{host}, task {rank}", "what": finding.what[:500]}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
