"""Runs on this machine: a bounded number at once, in one progress display."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.progress import TaskID, TimeElapsedColumn

from harness.allocation import count_cores, list_gpus
from harness.config import RunConfig
from harness.data.cache import cache_folder
from harness.errors import InputError, Interrupted, RunsFailedError
from harness.record import RunFolder
from harness.terminal import Bar
from harness.training.guard import check_folder
from slurm import AtOnce
from slurm.memory import choose_at_once
from slurm.plan import Plan
from slurm.process import POLL_SECONDS, Outcome, RunQueue, plan_run
from slurm.seeds import count_together, find_company
from slurm.snapshot import snapshot_code
from slurm.submission import Submission, create_folder


def run_locally(
    configs: Sequence[RunConfig],
    out: Path,
    at_once: AtOnce = "auto",
    code: Path | None = None,
    seeds_at_once: AtOnce = "auto",
) -> list[Outcome]:
    """Run everything, at most `at_once` processes at a time on each GPU, or on the cores where there is none.

    Each logs to log.txt in its folder, sees one GPU, and has its share of the cores unless OMP_NUM_THREADS says
    otherwise. A run that fails does not stop the others. An interrupt is passed on: every run saves itself before this
    returns.

    Args: code: the folder of the packages to run, if they are not this process's own. seeds_at_once: runs that train
        side by side in one process, see slurm.seeds.
    """
    for config in configs:
        check_folder(RunFolder(out / config.run_id), config)
    gpus, cores = list_gpus(), count_cores()
    if at_once == "auto":
        at_once = choose_local("auto", configs, out, seeds_at_once)
    processes = at_once * max(1, len(gpus))
    threads = max(1, cores // max(1, min(processes, len(configs))))
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    if code is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment["AAEBENCH_CACHE"] = str(cache_folder().absolute())  # the runs start in the folder of the code
    runs = [plan_run(config, out) for config in configs]
    company = partial(find_company, asked=seeds_at_once, gpus=len(gpus))
    queue = RunQueue(runs, out.absolute(), processes, environment, folder=code, gpus=gpus, find_company=company)
    with terminated_as_interrupted(), Bar("runs", TimeElapsedColumn()) as display:
        task = display.add_task("", total=len(configs))
        try:
            while queue.step():
                _show(display, task, queue)
                time.sleep(POLL_SECONDS)
            _show(display, task, queue)
        except OSError as error:
            raise InputError(f"cannot write the run folders: {error}; choose another place with --out") from error
        finally:
            queue.stop(signal.SIGTERM)
            queue.wait()
    return queue.outcomes


def choose_local(asked: AtOnce, configs: Sequence[RunConfig], out: Path, seeds_at_once: AtOnce = "auto") -> int:
    """Processes at a time here, on each GPU or on the cores. Raises: InputError for more than there is memory for."""
    gpus = list_gpus()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else os.environ
    runs = [plan_run(config, out) for config in configs]
    seeds = count_together(runs, seeds_at_once, len(gpus))
    return choose_at_once(asked, runs, out, len(gpus), count_cores(), environment, seeds=seeds)


def submit_locally(plan: Plan, out: Path) -> Submission:
    """Record that this process runs the plan, and snapshot the code that it runs."""
    sweep = plan.sweep
    run_ids = [config.run_id for config in sweep.configs]
    submission = Submission(create_folder(out, sweep.name), sweep.name, "local", sweep.content, run_ids)
    with submission.removed_on_failure():
        snapshot_code(submission.code, plan.todo, beside=[sweep.folder])
        submission.jobs = {"local": [config.run_id for config in plan.todo]}
        submission.own()
        submission.save()
    return submission


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that the runs under way are told to save themselves."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def require_all_done(outcomes: Sequence[Outcome]) -> None:
    """Raises: RunsFailedError naming the runs that did not finish, with the last lines of their logs."""
    failed = [outcome for outcome in outcomes if outcome.exit_status != 0]
    if failed:
        lines = "\n".join(f"  {outcome.folder.path}/log.txt: {outcome.last_line}" for outcome in failed)
        raise RunsFailedError(f"{len(failed)} of {len(outcomes)} runs did not finish:\n{lines}")


def _show(display: Bar, task: TaskID, queue: RunQueue) -> None:
    """The runs under way with their epochs; their start-up is most of a short run, so it is said too."""
    parts = []
    for process in queue.running:
        status = process.folder.read_status()
        progress = f"{status['epoch']}/{status['epochs']}" if "epoch" in status else "starting"
        parts.append(f"{process.run.run_id.rpartition('-')[0]} ({progress})")
    display.update(task, completed=len(queue.outcomes), description="  ".join(parts))
