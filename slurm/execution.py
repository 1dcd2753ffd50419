"""A sweep carried out: where its runs go, what is checked before, and what is said about it."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from harness.errors import InputError, RunsFailedError
from harness.terminal import console
from slurm.local import require_all_done, run_locally, submit_locally
from slurm.plan import TO_SUBMIT, Plan, build_plan, describe_change, find_missing_inputs, require_time_for_epochs
from slurm.queue import has_slurm, require_slurm
from slurm.report import describe_plan
from slurm.status import RunState
from slurm.submission import Submission, submitting
from slurm.submit import count_sbatch_calls, describe_request, submit_to_slurm
from slurm.sweep import Sweep

Executor = Literal["slurm", "local"]


def choose_executor(executor: Executor | None) -> Executor:
    """What was asked for, else slurm where there is one. Raises: InputError if SLURM does not answer."""
    chosen: Executor = executor or ("slurm" if has_slurm() else "local")
    if chosen == "slurm":
        require_slurm()
    return chosen


def show_plan(sweep: Sweep, out: Path, executor: Executor, states: Collection[RunState] = TO_SUBMIT) -> None:
    """Print what a submission would do, and what would keep it from that."""
    plan = build_plan(sweep, out, states)
    if executor == "slurm":
        require_time_for_epochs(plan)
    print(describe_plan(plan))
    if change := describe_change(sweep, out):
        print(change)
    for line in find_missing_inputs(plan.todo):
        print(f"missing here: {line}")
    if executor == "slurm" and plan.todo:
        print(f"\nsbatch calls: {count_sbatch_calls(plan)}\n\n{describe_request(plan, out)}")


def execute(
    sweep: Sweep,
    out: Path,
    executor: Executor,
    at_once: int,
    states: Collection[RunState] = TO_SUBMIT,
    *,
    changed: bool,
) -> None:
    """Submit the runs in one of `states`, to SLURM or to this machine, and print OUT; local runs are waited for.

    Raises: InputError, with nothing written, for whatever can be known before; RunsFailedError if local runs failed
        now, or any before that are not tried again.
    """
    if at_once < 0:
        raise InputError(f"--at-once {at_once} is no number of processes; 1 or more, or 0 for half of the cores")
    with submitting(out, sweep.name):
        plan = build_plan(sweep, out, states)
        if executor == "slurm":
            require_time_for_epochs(plan)
        if not changed and (change := describe_change(sweep, out)):
            raise InputError(f"{change}; give --changed to go on, or give the changed sweep another name")
        if missing := find_missing_inputs(plan.todo):
            raise InputError("\n".join(missing))
        submission = _submit(plan, out, executor) if plan.todo else None
    if submission is None:
        console.print(describe_plan(plan), highlight=False, soft_wrap=True)
    elif executor == "slurm":
        arrays = sorted({job_id.partition("_")[0] for job_id in submission.jobs}, key=int)
        text = f"submitted {len(plan.todo)} runs in {len(plan.jobs)} jobs: {', '.join(arrays)}"
        console.print(text, highlight=False, soft_wrap=True)
    else:
        cores = os.cpu_count() or 1
        try:
            outcomes = run_locally(plan.todo, out, at_once or max(1, cores // 2), submission.code)
        finally:
            submission.disown()
        require_all_done(outcomes)
    print(out, flush=True)
    left = sum(status.state == "failed" for status in plan.statuses) if "failed" not in states else 0
    if left:
        raise RunsFailedError(f"{left} runs failed before and are left; see sweep status, then sweep retry --failed")


def _submit(plan: Plan, out: Path, executor: Executor) -> Submission:
    return submit_to_slurm(plan, out) if executor == "slurm" else submit_locally(plan, out)
