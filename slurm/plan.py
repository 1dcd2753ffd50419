"""What of a sweep is left to do, how long it takes, and which runs share a job."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import RunConfig
from harness.data.readers.formats import Crop
from harness.data.sets import DATASETS
from harness.data.staging import known_source, read_data_checksum
from harness.data.weights import IMAGENET, find_weights
from harness.errors import InputError
from slurm.estimate import START_SECONDS, Timing, estimate_seconds, kinds_of, load_timings
from slurm.status import RunStatus, Standing, read_statuses
from slurm.submission import Submission, load_submissions
from slurm.sweep import Sweep

TO_SUBMIT: tuple[Standing, ...] = ("missing", "stale")


@dataclass(frozen=True)
class Plan:
    """What a submission would do. `seconds` and `timings` have an entry for each run that can be estimated."""

    sweep: Sweep
    statuses: list[RunStatus]
    todo: list[RunConfig]
    jobs: list[list[RunConfig]]
    seconds: dict[str, float]
    timings: dict[str, Timing]

    @property
    def gpu_hours(self) -> float:
        """Of the runs that can be estimated; where jobs have no GPU, hours of a process."""
        return sum(self.seconds.values()) * self.sweep.slurm.world_size / self.sweep.slurm.planned_at_once / 3600


def build_plan(sweep: Sweep, out: Path, standings: Collection[Standing] = TO_SUBMIT) -> Plan:
    """The plan for the runs that stand so."""
    statuses = read_statuses(sweep, out)
    todo = [status.config for status in statuses if status.standing in standings]
    kinds = kinds_of(todo)
    timings = load_timings(out, sweep.name, set(kinds.values()), sweep.slurm.world_size)
    known = {config.run_id: timings[kinds[config.run_id]] for config in todo if kinds[config.run_id] in timings}
    seconds = {
        config.run_id: estimate_seconds(config, known[config.run_id]) for config in todo if config.run_id in known
    }
    jobs = pack(todo, seconds, sweep.slurm.min_job_minutes * 60, sweep.slurm.planned_at_once)
    return Plan(sweep, statuses, todo, jobs, seconds, known)


def pack(
    todo: Sequence[RunConfig], seconds: Mapping[str, float], shortest: float, at_once: int
) -> list[list[RunConfig]]:
    """Runs in jobs, in order, none shorter than `shortest` seconds unless all together are.

    A run that cannot be estimated counts as long enough. A job has at least `at_once` runs, which share its GPU.
    """
    jobs: list[list[RunConfig]] = []
    job: list[RunConfig] = []
    length = 0.0
    for config in todo:
        job.append(config)
        length += seconds.get(config.run_id, math.inf) / at_once
        if length >= shortest and len(job) >= at_once:
            jobs.append(job)
            job, length = [], 0.0
    if job and jobs:
        jobs[-1] += job
    elif job:
        jobs.append(job)
    return jobs


def require_time_for_epochs(plan: Plan) -> None:
    """Raises: InputError if a job's time limit is known to be too short for one epoch of a run."""
    options = plan.sweep.slurm
    for run_id, timing in plan.timings.items():
        needed = START_SECONDS + timing.epoch_seconds + options.warning_seconds
        if needed > options.timeout_min * 60:
            raise InputError(
                f"timeout_min = {options.timeout_min} is too short for one epoch of {run_id}, which takes "
                f"{timing.epoch_seconds / 60:.1f} minutes ({timing.measured}); "
                f"set it to {math.ceil(needed / 60)} or more"
            )


def find_missing_inputs(configs: Collection[RunConfig]) -> list[str]:
    """What the runs need and this machine lacks (data, weights, trackers), a line each that says how to bring it."""
    lines = []
    places: set[tuple[str, int, Crop]] = {(config.dataset, config.image_size, config.crop) for config in configs}
    for name, size, crop in sorted(places):
        embedded = name in DATASETS and DATASETS[name].embedded
        if not embedded and read_data_checksum(name, size, crop) is None and known_source(name) is None:
            lines.append(f"{name} at {size} px is not staged; run: aaebench stage --dataset {name} --image-size {size}")
    protocols = [protocol for config in configs for protocol in config.protocol if protocol.extractor_weights is None]
    for extractor in sorted({protocol.extractor for protocol in protocols} & {*IMAGENET}):
        try:
            find_weights(extractor)
        except InputError as error:
            lines.append(str(error))
    if trackers := sorted({name for config in configs for name in config.trackers}):
        from harness.tracking.trackers import list_missing  # noqa: PLC0415 (imports accelerate, which takes a second)

        lines += list_missing(trackers)
    return lines


def require_no_fewer_trials(sweep: Sweep, out: Path) -> None:
    """Raises: InputError if more trials of the same search were run: the best of those that are left would be called

    the best of fewer than were tried.
    """
    if sweep.search is None:
        return
    now = {config.run_id for config in sweep.configs}
    for submission in load_submissions(out, sweep.name):
        trials = (submission.content.get("search") or {}).get("trials", 0)
        gone = [run_id for run_id in submission.run_ids if run_id not in now and (out / run_id).is_dir()]
        if (
            trials > sweep.search.trials
            and gone
            and _without_trials(submission.content) == _without_trials(sweep.content)
        ):
            raise InputError(
                f"search.trials = {sweep.search.trials} of the sweep {sweep.name} are fewer than the {trials} whose "
                f"runs are under {out}, as {gone[0]}; a best of fewer would hide them: keep trials at {trials} or more"
            )


def _without_trials(content: dict[str, Any]) -> dict[str, Any]:
    """What of a sweep file decides its draws and its grid, but for their number."""
    search = {key: value for key, value in (content.get("search") or {}).items() if key != "trials"}
    return {key: content.get(key) for key in ("grid", "fixed", "exclude")} | {"search": search}


def describe_change(sweep: Sweep, out: Path) -> str:
    """What differs between the sweep file and the one last submitted, if that changes its runs; else nothing.

    More trials of the same search are no change: they are what follows the first ones.
    """
    submissions = load_submissions(out, sweep.name)
    if not submissions:
        return ""
    before, now = set(submissions[-1].run_ids), {config.run_id for config in sweep.configs}
    has_only_more_trials = before < now and _without_trials(submissions[-1].content) == _without_trials(sweep.content)
    if before == now or has_only_more_trials:
        return ""
    lines = _compare(submissions[-1], sweep.content) or ["the defaults of the code or the files that it names"]
    return (
        f"the sweep {sweep.name} has changed since it was submitted: {'; '.join(lines)}. "
        f"{len(now - before)} runs are new and would be run, {len(before & now)} stay, "
        f"{len(before - now)} are no longer part of it"
    )


def _compare(submission: Submission, content: dict[str, Any]) -> list[str]:
    def parts(of: dict[str, Any]) -> dict[str, Any]:
        blocks = {key: of.get(key) or {} for key in ("grid", "search", "fixed")}
        named = {f"{key}.{name}": value for key, block in blocks.items() for name, value in block.items()}
        return {**named, "exclude": of.get("exclude")}

    old, new = parts(submission.content), parts(content)
    return [
        f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key)
    ]
