"""What SLURM knows about jobs: from sacct where there is accounting, from squeue otherwise."""

import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass

from harness.errors import InputError

NEVER_STARTED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ALIVE = {*NEVER_STARTED, "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class JobState:
    """SLURM's name for a job's state, and why it waits or how it ended."""

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
    answer = _ask("squeue", "--noheader", "--me")
    return answer.returncode == 0 or "configuration source" not in answer.stderr


def require_slurm() -> None:
    """Raises: InputError, with SLURM's own words, if it cannot be reached."""
    if shutil.which("sbatch") is None:
        raise InputError("there is no SLURM on this machine (no sbatch); run the sweep here with --executor local")
    answer = _ask("squeue", "--noheader", "--me")
    if answer.returncode:
        raise InputError(f"SLURM does not answer: {last_line(answer.stderr)}")


def read_job_states(job_ids: Collection[str]) -> dict[str, JobState] | None:
    """The state of each job that SLURM still knows, by its id as 12_3; None if SLURM does not answer.

    squeue forgets a job minutes after its end; sacct, where there is accounting, does not.
    """
    if shutil.which("squeue") is None:
        return None
    queue = _ask("squeue", "--noheader", "--array", "--me", "--states=all", "--format=%i|%T|%r")
    if queue.returncode:
        return None
    states = {}
    arrays = ",".join(sorted({job_id.partition("_")[0] for job_id in job_ids}))
    accounts = _ask("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode", "-j", arrays) if arrays else None
    for line in accounts.stdout.splitlines() if accounts is not None and accounts.returncode == 0 else ():
        name, state, exit_code = line.split("|")
        for job_id in expand_job_ids(name):
            states[job_id] = JobState(state.split(" ")[0], "" if exit_code == "0:0" else f"exit code {exit_code}")
    for line in queue.stdout.splitlines():  # what the controller says goes: the accounts lag behind it
        name, state, reason = line.split("|", 2)
        states[name] = JobState(state, "" if reason == "None" else reason)
    # An array whose jobs were all cancelled before they started is one entry, under the array's own id.
    known = {job_id: states.get(job_id) or states.get(job_id.partition("_")[0]) for job_id in job_ids}
    return {job_id: state for job_id, state in known.items() if state is not None}


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
    answer = _ask("scancel", *sorted(job_ids))
    if answer.returncode:
        raise InputError(f"scancel: {last_line(answer.stderr)}")


def read_max_array_size() -> int:
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config").stdout)
    return int(found[1]) if found else 1001


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no answer"])[-1]


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
