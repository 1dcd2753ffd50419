"""A sweep submitted and cancelled: where its runs go, what is checked before, and what is said about it.

To SLURM a plan's jobs go as arrays, through submitit: one sbatch call for as many jobs as an array may have.
"""

import shlex
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path

import psutil
from rich.progress import TimeElapsedColumn
from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.compat import render_sbatch_script
from harness.data.cache import cache_folder
from harness.errors import InputError, RunsFailedError
from harness.terminal import Bar, say
from slurm import AtOnce, Executor
from slurm.cluster import (
    cancel_jobs,
    has_slurm,
    outside_of_jobs,
    read_array_size,
    read_jobs,
    read_room,
    require_slurm,
)
from slurm.job import Job
from slurm.local import choose_local, require_all_done, run_locally, submit_locally
from slurm.overview import describe_failures, describe_plan, describe_site
from slurm.plan import (
    TO_SUBMIT,
    Plan,
    build_plan,
    describe_change,
    find_missing_inputs,
    require_no_fewer_trials,
    require_time_for_epochs,
)
from slurm.process import plan_run
from slurm.report import ReportJob
from slurm.request import SlurmOptions, build_flags, build_python, build_setup
from slurm.snapshot import snapshot_code
from slurm.status import Standing, read_statuses
from slurm.submission import Submission, create_folder, load_submissions, submitting, sweep_folder
from slurm.sweep import Sweep

REQUEUES = 1_000_000  # submitit would stop after 3 time limits; jobs that make no progress end themselves
PATIENCE_SECONDS = 5  # after which sbatch is said to be waiting
WAIT_SECONDS = 10  # between two looks at the queue
PROCESS_SECONDS = 120  # for a local submission's runs to save themselves
# What sbatch says where a user's, a QOS's or the controller's number of jobs is reached.
FULL = ("job submit limit", "temporarily unable to accept job", "Unable to create job record")


def choose_executor(executor: Executor | None) -> Executor:
    """What was asked for, else slurm where there is one. Raises: InputError if SLURM does not answer."""
    chosen: Executor = executor or ("slurm" if has_slurm() else "local")
    if chosen == "slurm":
        require_slurm()
    return chosen


def _require_counts(given: dict[str, AtOnce]) -> None:
    for option, number in given.items():
        if number != "auto" and number < 1:
            raise InputError(f"{option} {number} is no number of runs; 1 or more, or auto")


def show_plan(sweep: Sweep, out: Path, executor: Executor, standings: Collection[Standing] = TO_SUBMIT) -> None:
    """Print what a submission would do, and what would keep it from that."""
    require_no_fewer_trials(sweep, out)
    plan = build_plan(sweep, out, standings)
    if executor == "slurm":
        require_time_for_epochs(plan)
    print(describe_plan(plan))
    if change := describe_change(sweep, out):
        print(change)
    for line in find_missing_inputs(plan.todo):
        print(f"missing here: {line}")
    if executor == "slurm" and plan.todo:
        for line in describe_site(sweep):
            print(line)
        if (room := read_room()) < len(plan.jobs):
            print(f"SLURM takes {room} more jobs at this moment (MaxJobCount); the rest is for the next submit")
        if sweep.slurm.launcher or sweep.slurm.container:
            print(f"each process: {shlex.join(_build_python(sweep, out))} -m ...")
        print(f"\nsbatch calls: {-(-len(plan.jobs) // read_array_size())}\n\n{describe_request(plan, out)}")


def submit_sweep(
    sweep: Sweep,
    out: Path,
    executor: Executor,
    at_once: AtOnce,
    seeds_at_once: AtOnce = "auto",
    standings: Collection[Standing] = TO_SUBMIT,
    *,
    changed: bool,
    limit: int | None = None,
    wait: bool = False,
) -> None:
    """Submit the runs that stand so, to SLURM or to this machine, and print OUT; local runs are waited for.

    Args: limit: jobs to submit now; the rest is for the next call. wait: for SLURM's jobs as well.
    Raises: InputError, with nothing written, for whatever can be known before; RunsFailedError if local runs failed
        now, or any before that are not tried again.
    """
    _require_counts({"--at-once": at_once, "--seeds-at-once": seeds_at_once})
    if limit is not None and (limit < 1 or executor == "local"):
        raise InputError(
            f"--limit {limit}: how many jobs to submit to SLURM now, 1 or more; --at-once bounds what runs here"
        )
    with submitting(out, sweep.name):
        require_no_fewer_trials(sweep, out)
        plan = build_plan(sweep, out, standings)
        if executor == "slurm":
            require_time_for_epochs(plan)
        if not changed and (change := describe_change(sweep, out)):
            raise InputError(f"{change}; give --changed to go on, or give the changed sweep another name")
        if missing := find_missing_inputs(plan.todo):
            raise InputError("\n".join(missing))
        at_once = choose_local(at_once, plan.todo, out, seeds_at_once) if plan.todo and executor == "local" else 1
        _note_trials(plan)
        if plan.todo and executor == "slurm":
            say(submit_to_slurm(plan, out, limit))
        submission = submit_locally(plan, out) if plan.todo and executor == "local" else None
    if not plan.todo:
        say(describe_plan(plan))
    if submission is not None:
        try:
            outcomes = run_locally(plan.todo, out, at_once, submission.code, seeds_at_once)
        finally:
            submission.disown()
        if sweep.slurm.then == "report":
            _build_report_job(sweep, out, [sys.executable])()
        require_all_done(outcomes)
    print(out, flush=True)
    if wait and executor == "slurm":
        _wait_for_jobs(sweep, out)
    left = sum(status.standing == "failed" for status in plan.statuses) if "failed" not in standings else 0
    if left:
        raise RunsFailedError(f"{left} runs failed before and are left; see sweep status, then sweep retry --failed")


def _note_trials(plan: Plan) -> None:
    """A finished run that a search draws is a trial of it, whoever asked for it first: its folder says so from now on.

    Raises: InputError if it cannot be written.
    """
    for status in plan.statuses if plan.sweep.search is not None else []:
        if status.standing == "done":
            try:
                status.folder.ask_for(status.config.model_dump(mode="json"))
            except (OSError, ValueError) as error:
                raise InputError(f"cannot note in {status.folder.path} that it is a trial: {error}") from error


def submit_to_slurm(plan: Plan, out: Path, limit: int | None = None) -> str:
    """Snapshot the code, submit the plan's jobs, or as many as SLURM takes, and record which job has which runs.

    Returns: what was submitted, and what is left, in words.
    Raises: InputError with SLURM's own message if it takes none; then nothing is left of the submission.
    """
    sweep = plan.sweep
    run_ids = [config.run_id for config in sweep.configs]
    submission = Submission(create_folder(out, sweep.name), sweep.name, "slurm", sweep.content, run_ids)
    with submission.removed_on_failure():
        snapshot_code(submission.code, plan.todo, beside=[sweep.folder])
        jobs = [_build_job(plan, index, submission.folder, out) for index in range(len(plan.jobs))][:limit]
        why = f"--limit {limit}" if len(jobs) < len(plan.jobs) else ""
        if (room := read_room()) < len(jobs):  # sbatch would not be refused, and would wait
            jobs, why = jobs[:room], f"SLURM takes {room} more jobs at this moment (MaxJobCount)"
        try:
            why = _submit_arrays(jobs, submission, sweep.slurm) or why
        except BaseException as error:
            if submission.jobs:
                cancel_jobs({job_id.partition("_")[0] for job_id in submission.jobs})
            if isinstance(error, (FailedJobError, FailedSubmissionError, OSError)):
                raise InputError(f"SLURM refuses the jobs: {quote(error)}; nothing was submitted") from error
            raise
        if not submission.jobs:
            raise InputError(f"{why}; nothing was submitted: submit again when some jobs have ended")
    arrays = find_arrays(submission.jobs)
    n = sum(len(run_ids) for run_ids in submission.jobs.values())
    text = f"submitted {n} runs in {len(submission.jobs)} jobs: {', '.join(arrays)}"
    if sweep.slurm.then == "report":
        text += _submit_report(sweep, out, submission)
    left = f"; {len(plan.todo) - n} runs are left for the next sweep submit: {why}"
    return text + (left if n < len(plan.todo) else "")


def _submit_arrays(jobs: Sequence[Job], submission: Submission, options: SlurmOptions) -> str:
    """Submit the jobs in order, in smaller arrays as a limit is near. Returns: why there are some left, if there are.

    Raises: FailedJobError or FailedSubmissionError where SLURM refuses for another reason, or takes none.
    """
    size = read_array_size()
    while waiting := jobs[len(submission.jobs) :]:
        chunk = waiting[:size]
        executor = build_executor(submission.sweep, options, submission.folder)
        try:
            with outside_of_jobs(), _saying_that_it_waits(), redirect_stderr(StringIO()):  # submitit prints and raises
                submitted = executor.submit_array(chunk)
        except FailedJobError as error:
            if not any(words in str(error) for words in FULL) or (len(chunk) == 1 and not submission.jobs):
                raise
            if len(chunk) == 1:
                return f"SLURM says: {quote(error)}"
            size = len(chunk) // 2
            continue
        submission.jobs |= {
            job.job_id: [run.run_id for run in each.runs] for job, each in zip(submitted, chunk, strict=True)
        }
        submission.save()
    return ""


@contextmanager
def _saying_that_it_waits() -> Iterator[None]:
    """sbatch asks a full controller again for two minutes, and submitit shows nothing of it."""
    text = "sbatch has not answered yet: where SLURM has no room for more jobs, it asks again for two minutes"
    timer = threading.Timer(PATIENCE_SECONDS, print, (text,), {"file": sys.stderr, "flush": True})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def build_executor(name: str, options: SlurmOptions, folder: Path) -> SlurmExecutor:
    """submitit's executor with the sweep's options; its files go to the submission's folder."""
    executor = SlurmExecutor(folder / "jobs", max_num_timeout=REQUEUES)
    code = folder / "code"
    executor.update_parameters(
        job_name=name,
        time=options.timeout_min,
        signal_delay_s=options.warning_seconds,
        array_parallelism=options.array_parallelism,
        setup=[*build_setup(options, code), f"cd {shlex.quote(str(code))}"],
        wckey=None,
        additional_parameters={
            "requeue": True,
            **{flag.replace("-", "_"): value for flag, value in build_flags(options).items()},
        },
    )
    return executor


def describe_request(plan: Plan, out: Path) -> str:
    """The exact sbatch script of the plan's jobs; <time> stands for when it is submitted."""
    executor = build_executor(plan.sweep.name, plan.sweep.slurm, sweep_folder(out, plan.sweep.name) / "<time>")
    return render_sbatch_script(executor, min(len(plan.jobs), read_array_size()))


def _wait_for_jobs(sweep: Sweep, out: Path) -> None:
    """Until none of the sweep's jobs runs or waits, its report's neither, in one progress display.

    Raises: RunsFailedError if runs are not done then, with the reasons.
    """
    with Bar("runs", TimeElapsedColumn()) as display:
        task, alive = display.add_task("", total=len(sweep.configs)), {"unknown"}
        while True:
            with suppress(InputError):  # a controller that does not answer now has not lost its jobs
                alive = find_alive_jobs(load_submissions(out, sweep.name))
            statuses = read_statuses(sweep, out)
            done = sum(status.standing == "done" for status in statuses)
            display.update(task, completed=done, description=f"{sweep.name}: {len(alive)} jobs")
            if not alive:
                break
            time.sleep(WAIT_SECONDS)
    if left := len(statuses) - done:
        reasons = describe_failures(statuses)
        raise RunsFailedError(f"{left} of {len(statuses)} runs are not done; see sweep status\n{reasons}".rstrip())


def cancel_sweep(name: str, out: Path) -> int:
    """Cancel every job of a sweep that runs or waits, and the process of a local submission.

    Returns: how many were cancelled.
    Raises: InputError if there are none, or if SLURM does not answer; RunsFailedError if a process does not end.
    """
    submissions = load_submissions(out, name)
    if not submissions:
        raise InputError(f"the sweep {name} was never submitted to {out}; see --out")
    alive = find_alive_jobs(submissions)
    if alive:
        cancel_jobs(alive)
    processes = [process for each in submissions if (process := each.find_process()) is not None]
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise InputError(f"the sweep runs here as process {process.pid} of {process.username()}") from error
    _, left = psutil.wait_procs(processes, PROCESS_SECONDS)
    if left:
        pids = " ".join(str(process.pid) for process in left)
        raise RunsFailedError(
            f"the sweep's process {pids} was told to end and has not within {PROCESS_SECONDS} s; its runs may still "
            f"be saving: cancel again to wait on, or end it at once with kill -9 {pids}, and the runs resume from what "
            "they saved last"
        )
    return len(alive) + len(processes)


def find_alive_jobs(submissions: Sequence[Submission], *, with_runs: bool = False) -> set[str]:
    """The ids of the submissions' jobs that run or wait, or of those among them that train runs.

    Raises: InputError if SLURM does not answer.
    """
    of_slurm = (each for each in submissions if each.executor == "slurm")
    job_ids = {job_id for each in of_slurm for job_id, run_ids in each.jobs.items() if run_ids or not with_runs}
    known = read_jobs(job_ids) if job_ids else {}
    if known is None:
        raise InputError("SLURM does not answer: its jobs cannot be found now")
    return {job_id for job_id, job in known.items() if job.alive}


def find_arrays(job_ids: Collection[str]) -> list[str]:
    """The arrays that jobs belong to, or the jobs themselves where they are in none."""
    return sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)


def _submit_report(sweep: Sweep, out: Path, submission: Submission) -> str:
    """Submit the job that reports when all jobs of the sweep have ended, however. Returns: what is said of it."""
    others = find_alive_jobs(load_submissions(out, sweep.name), with_runs=True)
    dependency = f"afterany:{':'.join(find_arrays(others | submission.jobs.keys()))}"
    one_process = {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0}
    options = sweep.slurm.model_copy(update=one_process | {"sbatch": sweep.slurm.sbatch | {"dependency": dependency}})
    job = _build_report_job(sweep, out, _build_python(sweep, out))
    try:
        with outside_of_jobs(), redirect_stderr(StringIO()):
            submitted = build_executor(f"{sweep.name}-report", options, submission.folder).submit(job)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        return f"; none that reports: SLURM refuses it: {quote(error)}"
    submission.jobs[submitted.job_id] = []
    submission.save()
    return f"; job {submitted.job_id} then writes {job.folder / 'report.html'}"


def _build_report_job(sweep: Sweep, out: Path, python: list[str]) -> ReportJob:
    return ReportJob(python, out.absolute(), sweep_folder(out, sweep.name) / "report")


def _build_python(sweep: Sweep, out: Path) -> list[str]:
    return build_python(sweep.slurm, [out, cache_folder(), sweep.folder])


def _build_job(plan: Plan, index: int, submission: Path, out: Path) -> Job:
    options = plan.sweep.slurm
    return Job(
        runs=[plan_run(config, out) for config in plan.jobs[index]],
        out=out.absolute(),
        submission=submission,
        world_size=options.world_size,
        at_once=options.runs_at_once,
        seeds_at_once=options.seeds_at_once,
        save_seconds=max(3.0, options.warning_seconds * 0.8),
        python=_build_python(plan.sweep, out),
    )


def quote(error: Exception) -> str:
    """The lines in which sbatch says what it minds."""
    said = [line.partition("error:")[2].strip() for line in str(error).splitlines() if "error:" in line]
    return " ".join(dict.fromkeys(said)) or str(error).strip()
