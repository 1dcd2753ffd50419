"""A plan's jobs as SLURM arrays, through submitit: one sbatch call, or one for every thousand jobs."""

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from harness.compat import render_sbatch_script
from harness.errors import InputError
from slurm.job import Job
from slurm.options import SlurmOptions
from slurm.plan import Plan, plan_runs
from slurm.queue import cancel_jobs, read_max_array_size
from slurm.snapshot import snapshot_code
from slurm.submission import Submission, create_folder, sweep_folder

REQUEUES = 1_000_000  # submitit would stop after 3 time limits; jobs that make no progress end themselves


def submit_to_slurm(plan: Plan, out: Path) -> Submission:
    """Snapshot the code, submit every job of the plan, and record which job has which runs.

    Raises: InputError with SLURM's own message if it refuses; then nothing is left of the submission.
    """
    sweep = plan.sweep
    run_ids = [config.run_id for config in sweep.configs]
    submission = Submission(create_folder(out, sweep.name), sweep.name, "slurm", sweep.content, run_ids)
    jobs = [_build_job(plan, index, submission.folder, out) for index in range(len(plan.jobs))]
    size = read_max_array_size() - 1
    try:
        snapshot_code(submission.code, plan.todo)
        for first in range(0, len(jobs), size):
            executor = build_executor(sweep.name, sweep.slurm, submission.folder)
            chunk = jobs[first : first + size]
            with _outside_of_jobs(), redirect_stderr(StringIO()):  # submitit prints what it then raises
                submitted = executor.submit_array(chunk)
            submission.jobs |= {
                job.job_id: [run.run_id for run in each.runs] for job, each in zip(submitted, chunk, strict=True)
            }
            submission.save()
    except BaseException as error:
        if submission.jobs:
            cancel_jobs({job_id.partition("_")[0] for job_id in submission.jobs})
        shutil.rmtree(submission.folder)
        if isinstance(error, (FailedJobError, FailedSubmissionError, OSError)):
            raise InputError(f"SLURM refuses the jobs: {_quote(error)}; nothing was submitted") from error
        raise
    return submission


def build_executor(name: str, options: SlurmOptions, folder: Path) -> SlurmExecutor:
    """submitit's executor with the sweep's options; its files go to the submission's folder."""
    executor = SlurmExecutor(folder / "jobs", max_num_timeout=REQUEUES)
    parameters = {
        "job_name": name,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "nodes": options.nodes,
        "ntasks_per_node": options.processes_per_node,
        "gpus_per_node": options.gpus_per_node or None,
        "cpus_per_task": options.cpus_per_task,
        "mem": f"{round(options.mem_gb * 1024)}M" if options.mem_gb else None,
        "time": options.timeout_min,
        "signal_delay_s": options.warning_seconds,
        "array_parallelism": options.array_parallelism,
        "setup": list(_setup_lines(options.setup, folder / "code")),
        "wckey": None,
        "additional_parameters": {
            "requeue": True,
            **{key: value for key, value in options.sbatch.items() if value is not False and value is not None},
        },
    }
    executor.update_parameters(**parameters)
    return executor


def describe_request(plan: Plan, out: Path) -> str:
    """The exact sbatch script of the plan's jobs; <time> stands for when it is submitted."""
    executor = build_executor(plan.sweep.name, plan.sweep.slurm, sweep_folder(out, plan.sweep.name) / "<time>")
    size = min(len(plan.jobs), read_max_array_size() - 1)
    return render_sbatch_script(executor, size)


def count_sbatch_calls(plan: Plan) -> int:
    return -(-len(plan.jobs) // (read_max_array_size() - 1))


def _build_job(plan: Plan, index: int, submission: Path, out: Path) -> Job:
    options = plan.sweep.slurm
    return Job(
        runs=plan_runs(plan.jobs[index]),
        out=out.absolute(),
        submission=submission,
        world_size=options.world_size,
        at_once=options.runs_at_once,
        save_seconds=max(3.0, options.warning_seconds * 0.8),
    )


def _setup_lines(setup: Iterable[str], code: Path) -> Iterable[str]:
    """The user's commands, between what they may override and what they may not."""
    if cache := os.environ.get("AAEBENCH_CACHE"):
        yield f"export AAEBENCH_CACHE={shlex.quote(str(Path(cache).absolute()))}"
    yield from setup
    yield 'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"'  # srun does not heed sbatch's --cpus-per-task by itself
    yield f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
    yield f"cd {shlex.quote(str(code))}"


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """An environment without a surrounding job's variables, but still of the same cluster."""
    kept = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield


def _quote(error: Exception) -> str:
    """The lines in which sbatch says what it minds."""
    said = [line for line in str(error).splitlines() if "error:" in line]
    return " ".join(line.partition("error:")[2].strip() for line in said) or str(error).strip()
