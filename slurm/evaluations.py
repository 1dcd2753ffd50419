"""Finished runs scored again in SLURM's jobs: an array in which each job evaluates some of the runs."""

from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

from harness.errors import InputError, RunsFailedError
from harness.models.evaluate import Asked, evaluate_runs, plan_evaluations
from slurm.cluster import outside_of_jobs, read_array_size, require_slurm
from slurm.request import SlurmOptions
from slurm.snapshot import snapshot_code
from slurm.submission import create_folder
from slurm.submit import build_executor, quote

NAME = "evaluate"


@dataclass(frozen=True)
class EvaluationJob:
    """Some run folders, and what is asked of them. A job that starts again measures what is missing then."""

    runs: tuple[Path, ...]
    asked: Asked

    def __call__(self) -> None:
        """Raises: RunsFailedError naming the runs that could not be evaluated; the others are."""
        tasks, complete, reasons = plan_evaluations(self.runs, self.asked)
        evaluate_runs(tasks)
        print(f"evaluated {len(tasks)} runs; {complete} had all of it", flush=True)
        if reasons:
            raise RunsFailedError("\n".join(reasons))

    def checkpoint(self) -> DelayedSubmission:
        """What is run when the job starts again, after a preemption or its time limit."""
        return DelayedSubmission(self)


def submit_evaluations(runs: Sequence[Path], asked: Asked, options: SlurmOptions, out: Path) -> list[str]:
    """Submit the runs, shared out to `array_parallelism` jobs at most; each job is one process.

    Args: out: the folder for what is submitted. Returns: the jobs' ids.
    Raises: InputError with SLURM's own words if it refuses.
    """
    require_slurm()
    one_process = options.model_copy(update={"nodes": 1, "tasks_per_node": 1})
    n_jobs = min(len(runs), options.array_parallelism, read_array_size())
    jobs = [EvaluationJob(tuple(run.absolute() for run in runs[n::n_jobs]), asked) for n in range(n_jobs)]
    folder = create_folder(out, NAME)
    snapshot_code(folder / "code", [])
    try:
        with outside_of_jobs(), redirect_stderr(StringIO()):
            submitted = build_executor(NAME, one_process, folder).submit_array(jobs)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise InputError(f"SLURM refuses the jobs: {quote(error)}; nothing was submitted") from error
    return [job.job_id for job in submitted]
