"""SLURM asked through its own commands: what jobs there are, how many more it takes, and a command inside a job."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import clean_env

from harness.errors import InputError
from slurm.request import SlurmOptions, build_flags, build_python, build_setup

NEVER_STARTED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ALIVE = {*NEVER_STARTED, "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class SlurmJob:
    """SLURM's name for how far a job is, and why it waits or how it ended."""

    state: str
    reason: str

    @property
    def alive(self) -> bool:
        """Whether the job runs or will run."""
        return self.state in ALIVE

    @property
    def waiting(self) -> bool:
        return self.state in NEVER_STARTED


def has_slurm() -> bool:
    """Whether this machine belongs to a cluster, reachable at the moment or not: SLURM's commands know of one."""
    if shutil.which("sbatch") is None or shutil.which("squeue") is None:
        return False
    answer = ask("squeue", "--noheader", "--me")
    return answer.returncode == 0 or "configuration source" not in answer.stderr


def require_slurm() -> None:
    """Raises: InputError, with SLURM's own words, if it cannot be reached."""
    if shutil.which("sbatch") is None:
        raise InputError("there is no SLURM on this machine (no sbatch); run the sweep here with --executor local")
    answer = ask("squeue", "--noheader", "--me")
    if answer.returncode:
        raise InputError(f"SLURM does not answer: {last_line(answer.stderr)}")


def read_jobs(job_ids: Collection[str]) -> dict[str, SlurmJob] | None:
    """Each job that SLURM still knows, by its id as 12_3; None if SLURM does not answer.

    squeue forgets a job minutes after its end; sacct, where there is accounting, does not.
    """
    if shutil.which("squeue") is None:
        return None
    queue = ask("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T|%r")
    if queue.returncode:
        return None
    jobs = {}
    arrays = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
    accounts = ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", arrays) if arrays else None
    for line in accounts.stdout.splitlines() if accounts is not None and accounts.returncode == 0 else ():
        name, state, exit_code = line.split("|")
        for job_id in expand_job_ids(name):
            jobs[job_id] = SlurmJob(state.split(" ")[0], "" if exit_code == "0:0" else f"exit code {exit_code}")
    for line in queue.stdout.splitlines():  # what the controller says goes: the accounts lag behind it
        name, state, reason = line.split("|", 2)
        jobs[name] = SlurmJob(state, "" if reason == "None" else reason)
    # An array whose jobs were all cancelled before they started is one entry, under the array's own id.
    known = {job_id: jobs.get(job_id) or jobs.get(job_id.partition("_")[0]) for job_id in job_ids}
    return {job_id: job for job_id, job in known.items() if job is not None}


def expand_job_ids(name: str) -> list[str]:
    """`12`, `12_3` or what waits of an array, as `12_[3,5-7%2]`, as ids of single jobs."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", name)
    if array is None:
        return [name]
    ids = []
    for part in array[2].split(","):
        first, _, last = part.partition("-")
        ids += [f"{array[1]}_{number}" for number in range(int(first), int(last or first) + 1)]
    return ids


def cancel_jobs(job_ids: Collection[str]) -> None:
    """Raises: InputError, with scancel's own words, if it fails."""
    answer = ask("scancel", *sorted(job_ids))
    if answer.returncode:
        raise InputError(f"scancel: {last_line(answer.stderr)}")


def read_array_size() -> int:
    """How many jobs one array may have; 1 where the cluster has no arrays (MaxArraySize 0 or 1)."""
    return max(1, _read_setting("MaxArraySize", 1001))


def read_room() -> int:
    """How many jobs the controller takes beside those that it has, all users' (MaxJobCount).

    A full one refuses no job: sbatch asks again for two minutes.
    """
    queue = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i")
    return max(0, _read_setting("MaxJobCount", 10_000) - 1 - len(queue.stdout.splitlines()))


def _read_setting(name: str, default: int) -> int:
    found = re.search(rf"^{name}\s*=\s*(\d+)", ask("scontrol", "show", "config").stdout, re.MULTILINE)
    return int(found[1]) if found else default


def run_in_job(
    options: SlurmOptions,
    module: str,
    *arguments: str,
    text: str = "",
    one_task: bool = False,
    folders: Collection[Path] = (),
) -> str:
    """What `python -m <module>` prints in a job with the sweep's options, in all tasks of a run or in one; waited for.

    Args: folders: what it reads and writes, which a container must show.
    Raises: InputError with SLURM's or the module's own last words if it fails.
    """
    flags = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in build_flags(options, one_task=one_task).items()
    ]
    code = Path(__file__).parent.parent
    lines = [
        *build_setup(options, code),
        'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"',
        f"exec {shlex.join([*build_python(options, {code, *folders}), '-m', module, *arguments])}",
    ]
    command = ["srun", "--quiet", *flags, "/bin/bash", "-c", "\n".join(lines)]
    with outside_of_jobs():
        answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        raise InputError(f"the job failed: {(said or ['no message'])[0].removeprefix('srun: error: ')}")
    return answer.stdout


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """An environment without a surrounding job's variables, but still of the same cluster.

    What is set for sbatch (SBATCH_...) goes too: it would win over the script, which has what counts of it.
    """
    kept = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no answer"])[-1]


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """A command's answer; a failure where there is no such command, or none in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
