"""The commands over many runs: `aaebench sweep`, `aaebench doctor`. They import what they need when they run."""

# ruff: noqa: PLC0415
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from harness.errors import InputError, RunsFailedError
from slurm import AtOnce, Executor

if TYPE_CHECKING:
    from slurm.status import Standing
    from slurm.sweep import Sweep

Switch = Annotated[bool, Parameter(negative="")]
WATCH_SECONDS = 10


def plan(
    sweep: Path,
    /,
    *,
    out: Path = Path("runs"),
    executor: Annotated[Executor | None, Parameter(show_default=False)] = None,
    probe: Switch = False,
) -> None:
    """Show what a submission would do: what is done, what is left, the jobs, GPU-hours, and the sbatch request.

    Parameters
    ----------
    sweep
        A YAML file with a grid over fields of a run, or the name of a shipped one, as paper or mapping_depth.
    out
        The folder that holds run folders.
    executor
        Where the runs would run. [default: slurm where there is one, else local]
    probe
        First train each kind of run for some seconds, in a job where there is SLURM, to estimate what has no records.
    """
    from slurm.submit import choose_executor, show_plan

    loaded, chosen = _load(sweep), choose_executor(executor)
    if probe:
        from slurm.estimate import probe_kinds

        probe_kinds(loaded, out, through_slurm=chosen == "slurm")
    show_plan(loaded, out, chosen)


def submit(
    sweep: Path,
    /,
    *,
    out: Path = Path("runs"),
    executor: Annotated[Executor | None, Parameter(show_default=False)] = None,
    at_once: Annotated[AtOnce, Parameter(show_default=False)] = "auto",
    seeds_at_once: Annotated[AtOnce, Parameter(show_default=False)] = "auto",
    limit: Annotated[int | None, Parameter(show_default=False)] = None,
    dry_run: Switch = False,
    changed: Switch = False,
    wait: Switch = False,
) -> None:
    """Submit a sweep: what is done or under way is left, what was interrupted is resumed; prints OUT.

    Give it again at any time: it submits what is missing, and nothing twice. Runs that failed wait for sweep retry.

    Parameters
    ----------
    sweep
        A YAML file with a grid over fields of a run, or the name of a shipped one, as paper or mapping_depth.
    out
        The folder that holds run folders. On a cluster: on a file system that the compute nodes share.
    executor
        slurm submits jobs and returns; local runs everything here and waits. [default: slurm where there is one]
    at_once
        Runs at a time, for local: on each GPU, or on the cores where there is none. auto: on a GPU as many as its
        memory, by a short probe, and its share of the cores allow; else half of the cores. [default: auto]
    seeds_at_once
        Runs that differ in nothing but the seed and train side by side as one model, for local: a
        model counts as one of --at-once. auto: 5 on a GPU, of the mlp architecture; else 1. [default: auto]
    limit
        Jobs to submit to SLURM now, at most; the next sweep submit goes on. [default: as many as SLURM takes]
    dry_run
        Only show the plan.
    changed
        Submit although the file's runs are others than when it was submitted before.
    wait
        Return when all of the sweep's jobs have ended; exit status 1 if runs are not done then. (local always waits)
    """
    from slurm.submit import choose_executor, show_plan, submit_sweep

    loaded, chosen = _load(sweep), choose_executor(executor)
    if dry_run:
        show_plan(loaded, out, chosen)
    else:
        submit_sweep(loaded, out, chosen, at_once, seeds_at_once, changed=changed, limit=limit, wait=wait)


def retry(
    sweep: Path,
    /,
    *,
    failed: Switch = False,
    stale: Switch = False,
    out: Path = Path("runs"),
    executor: Annotated[Executor | None, Parameter(show_default=False)] = None,
    at_once: Annotated[AtOnce, Parameter(show_default=False)] = "auto",
    seeds_at_once: Annotated[AtOnce, Parameter(show_default=False)] = "auto",
    limit: Annotated[int | None, Parameter(show_default=False)] = None,
    dry_run: Switch = False,
) -> None:
    """Submit again the runs that failed, or that nothing works on any more, or both; each resumes where it was.

    Parameters
    ----------
    sweep
        The sweep's file or name.
    failed
        Only the runs that failed.
    stale
        Only the runs whose job is gone: cancelled, lost with its node, never requeued.
    out
        The folder that holds run folders.
    executor
        As for sweep submit.
    at_once
        As for sweep submit.
    seeds_at_once
        As for sweep submit.
    limit
        As for sweep submit.
    dry_run
        Only show the plan.
    """
    from slurm.submit import choose_executor, show_plan, submit_sweep

    both = failed == stale
    standings: list[Standing] = ["failed", "stale"] if both else ["failed"] if failed else ["stale"]
    loaded, chosen = _load(sweep), choose_executor(executor)
    if dry_run:
        show_plan(loaded, out, chosen, standings)
    else:
        submit_sweep(loaded, out, chosen, at_once, seeds_at_once, standings, changed=True, limit=limit)


def status(
    sweep: Path,
    /,
    *,
    out: Path = Path("runs"),
    watch: Switch = False,
    json_: Annotated[Switch, Parameter("--json")] = False,
) -> None:
    """Show how far a sweep is, per variant and data set, and why runs failed.

    Asks sacct, or squeue where there is no accounting, and otherwise reads the run folders alone.

    Parameters
    ----------
    sweep
        The sweep's file or name.
    out
        The folder that holds run folders.
    watch
        Refresh every ten seconds until nothing runs or waits any more.
    json_
        A JSON list with an object per run instead.
    """
    from rich.live import Live

    from harness.terminal import build_output, fit_table, print_table
    from slurm.overview import build_table, describe_failures, to_json
    from slurm.plan import require_no_fewer_trials
    from slurm.status import read_statuses

    loaded = _load(sweep)
    require_no_fewer_trials(loaded, out)
    statuses = read_statuses(loaded, out)
    if json_:
        print(json.dumps(to_json(statuses), indent=1))
        return
    if watch:
        output = build_output()
        with Live(fit_table(build_table(statuses), output), console=output, auto_refresh=False) as live:
            while any(each.standing in ("running", "pending") for each in statuses):
                time.sleep(WATCH_SECONDS)
                statuses = read_statuses(loaded, out)
                live.update(fit_table(build_table(statuses), output), refresh=True)
    else:
        print_table(build_table(statuses))
    if failures := describe_failures(statuses):
        print(failures)


def cancel(sweep: Path, /, *, out: Path = Path("runs")) -> None:
    """Cancel a sweep's jobs. Runs under way save themselves first; sweep submit goes on from there.

    Parameters
    ----------
    sweep
        The sweep's file or name.
    out
        The folder that holds run folders.
    """
    from slurm.submit import cancel_sweep

    print(f"cancelled {cancel_sweep(_load(sweep).name, out)} jobs")


def evaluate(
    runs: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    protocol: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    extractor: str | None = None,
    epoch: Literal["last", "best", "all"] = "last",
    set_: Annotated[tuple[str, ...], Parameter("--set", negative="")] = (),
    trust_code: Switch = False,
    executor: Executor = "local",
    slurm: Path | None = None,
    out: Path = Path("runs"),
) -> None:
    """Score finished runs again, from the weights that they have kept; nothing is trained.

    Only what is missing is measured, so giving it again after a kill goes on, and several may work at once. On several
    GPUs: accelerate launch -m aaebench evaluate RUNS <the same options>

    Parameters
    ----------
    runs
        Run folders, or folders that hold run folders at any depth.
    protocol
        paper, clean, published, or a YAML file. (repeatable) [default: those that each run was trained with]
    extractor
        inception, torchvision, efficientnet_lite0, domain, or a TorchScript file, which is a program of its author's.
        [default: the protocol's]
    epoch
        last, best (lowest FID under the run's first protocol), or all whose weights were kept: see keep_weights.
    set_
        What else changes the scores, as KEY=VALUE: samplers=[prior, gmm], sampling_seeds=3, n_fake=10000. (repeatable)
    trust_code
        Run the code of variants that are not aaebench's own, as package.module:Class.
    executor
        local evaluates here; slurm submits an array of jobs, which share the runs, and returns.
    slurm
        A YAML file with a `slurm:` block, as a sweep's, for the jobs' options.
    out
        Where what is submitted to SLURM is kept: on a file system that the compute nodes share.
    """
    from harness.commands import is_main_process
    from harness.models.evaluate import Asked, evaluate_runs, plan_evaluations
    from harness.settings import load_config_file, parse_assignments
    from harness.terminal import say

    if not runs:
        raise InputError("name a run folder, or a folder that holds some: aaebench evaluate runs --protocol clean")
    asked = Asked(tuple(map(_absolute, protocol)), extractor, epoch, parse_assignments(set_), trust_code)
    tasks, complete, reasons = plan_evaluations(runs, asked)
    said = f"evaluated {len(tasks)} runs"
    if tasks and executor == "slurm":
        from slurm.evaluations import submit_evaluations
        from slurm.request import build_options

        options = build_options(load_config_file(slurm).get("slurm") or {} if slurm else {}, str(slurm))
        jobs = submit_evaluations([task.folder.path for task in tasks], asked, options, out)
        said = f"submitted {len(tasks)} runs in {len(jobs)} jobs: {jobs[0].partition('_')[0]}"
    elif tasks:
        evaluate_runs(tasks)
    if is_main_process():
        for reason in reasons:
            say(f"passed over: {reason}")
        say(f"{said}; {complete} had all of it")
    if reasons:
        raise RunsFailedError(f"{len(reasons)} runs were passed over, for the reasons above")


def _absolute(protocol: str) -> str:
    """A job runs in another folder."""
    return str(Path(protocol).absolute()) if Path(protocol).suffix in (".yaml", ".yml") else protocol


def logs(run: str, /, *, out: Path = Path("runs"), lines: int = 50) -> None:
    """Print the end of a run's logs, each under its path.

    Parameters
    ----------
    run
        The run's id, or any part of it that no other run's has.
    out
        The folder that holds run folders.
    lines
        Lines of each log; 0 for all.
    """
    from slurm.overview import print_logs

    if lines < 0:
        raise InputError(f"--lines {lines} is no number of lines; 1 or more, or 0 for all")
    print_logs(run, out, lines)


def doctor(
    sweep: Path | None = None,
    /,
    *,
    out: Path = Path("runs"),
    slurm: Switch = False,
    json_: Annotated[Switch, Parameter("--json")] = False,
) -> None:
    """Check what makes jobs fail at night: versions, GPUs, launchers, SLURM, file system, data, disk, host names.

    Each finding says what to do. Exit status 1 if something would fail.

    Parameters
    ----------
    sweep
        A sweep's file or name, whose data and slurm options are checked too.
    out
        The folder that will hold run folders.
    slurm
        Run the checks inside a job as well, on as many nodes as the sweep asks for.
    json_
        A JSON list of findings instead.
    """
    from slurm.doctor import run_doctor

    if slurm:
        from slurm.cluster import require_slurm

        require_slurm()
    run_doctor(_load(sweep) if sweep is not None else None, out, slurm, json_)


def _load(sweep: Path) -> "Sweep":
    from slurm.sweep import find_sweep, load_sweep

    return load_sweep(find_sweep(sweep))
