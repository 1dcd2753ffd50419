"""Cancelling: every job of a sweep that runs or waits, and the process of a local submission."""

from pathlib import Path

from harness.errors import InputError
from slurm.queue import cancel_jobs, read_job_states
from slurm.submission import load_submissions

PROCESS_SECONDS = 120


def cancel_sweep(name: str, out: Path) -> int:
    """Returns: how many jobs were cancelled. Raises: InputError if there are none, or if SLURM does not answer."""
    submissions = load_submissions(out, name)
    if not submissions:
        raise InputError(f"the sweep {name} was never submitted to {out}; see --out")
    job_ids = {job_id for each in submissions if each.executor == "slurm" for job_id in each.jobs}
    states = read_job_states(job_ids) if job_ids else {}
    if states is None:
        raise InputError("SLURM does not answer: its jobs cannot be cancelled now")
    alive = {job_id for job_id, job in states.items() if job.alive}
    if alive:
        cancel_jobs(alive)
    processes = [process for each in submissions if (process := each.find_process()) is not None]
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(PROCESS_SECONDS)
    return len(alive) + len(processes)
