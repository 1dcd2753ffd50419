"""Finished runs scored again in SLURM's jobs: an array in which each job evaluates some of the runs.

`python -m slurm.evaluations` is what a job runs, with what is asked on standard input, where the launcher says.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

from harness.data.cache import cache_folder
from harness.errors import CommandError, InputError, RunsFailedError
from harness.models.evaluate import Asked, evaluate_runs, plan_evaluations
from slurm.cluster import outside_of_jobs, read_array_size, require_slurm
from slurm.request import SlurmOptions, build_python
from slurm.snapshot import snapshot_code
from slurm.submission import create_folder
from slurm.submit import build_executor, quote

NAME = "evaluate"


@dataclass(frozen=True)
class EvaluationJob:
    """Some run folders, and what is asked of them. A job that starts again measures what is missing then."""

    runs: tuple[Path, ...]
    asked: Asked
    python: tuple[str, ...]

    def __call__(self) -> None:
        """Raises: RunsFailedError if runs could not be evaluated, which standard error names; the others are."""
        asked = json.dumps({"runs": list(map(str, self.runs)), "asked": asdict(self.asked)})
        if subprocess.run([*self.python, "-m", "slurm.evaluations"], input=asked, text=True, check=False).returncode:
            raise RunsFailedError("some of the runs were not evaluated")

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
    python = tuple(build_python(options, {out, cache_folder(), *(run.parent for run in runs)}))
    jobs = [EvaluationJob(tuple(run.absolute() for run in runs[n::n_jobs]), asked, python) for n in range(n_jobs)]
    folder = create_folder(out, NAME)
    snapshot_code(folder / "code", [])
    try:
        with outside_of_jobs(), redirect_stderr(StringIO()):
            submitted = build_executor(NAME, one_process, folder).submit_array(jobs)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise InputError(f"SLURM refuses the jobs: {quote(error)}; nothing was submitted") from error
    return [job.job_id for job in submitted]


def main() -> int:
    """What a job runs: the runs and what is asked of them come on standard input."""
    given = json.load(sys.stdin)
    asked = Asked(**given["asked"] | {"protocols": tuple(given["asked"]["protocols"])})
    try:
        tasks, complete, reasons = plan_evaluations([Path(run) for run in given["runs"]], asked)
        evaluate_runs(tasks)
    except CommandError as error:
        print(f"aaebench: {error}", file=sys.stderr)
        return error.exit_status
    print(f"evaluated {len(tasks)} runs; {complete} had all of it")
    print(*reasons, sep="\n", file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
