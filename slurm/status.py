"""How far a sweep is: what its run folders say, and what SLURM knows of the jobs that have yet to finish them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from harness.config import RunConfig
from harness.lock import is_owned
from harness.readings import find_evaluation, is_settled
from harness.record import EvaluationFolder, Record, RunFolder, key_of, parse_records
from harness.schema import check_evaluation, check_object, check_records
from slurm.cluster import SlurmJob, read_jobs
from slurm.process import log_name, read_end
from slurm.submission import Submission, load_submissions
from slurm.sweep import Sweep

# done: it has the epochs and the evaluations that the sweep asks for. stale: it was submitted or begun, or has less
# than is asked for now, and nothing works on it. missing: it never was.
Standing = Literal["done", "running", "pending", "failed", "stale", "missing"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)
FRESH_SECONDS = 900  # a run that cannot be asked otherwise counts as running for so long after its last epoch


@dataclass(frozen=True)
class RunStatus:
    """One run of a sweep. `log` is the file that says most about a failure; `seconds_left` holds while it runs.

    `fid` is the newest of prior samples under the run's first protocol: of a run that is done, that of its last epoch.
    """

    config: RunConfig
    folder: RunFolder
    standing: Standing
    job_id: str
    epoch: int
    reason: str
    interruptions: int
    images_per_second: float | None
    fid: float | None
    seconds_left: float | None
    log: Path


@dataclass(frozen=True)
class Placement:
    """The newest submission that a run is part of, its job there, and what SLURM says of it."""

    submission: Submission
    job_id: str
    job: SlurmJob | None
    answered: bool

    @property
    def works(self) -> bool:
        """Whether something works on the job's runs, or will."""
        if self.submission.executor == "local":
            return self.submission.find_process() is not None
        return not self.answered or (self.job is not None and self.job.alive)

    @property
    def waits(self) -> bool:
        return self.job is not None and self.job.waiting


def read_statuses(sweep: Sweep, out: Path) -> list[RunStatus]:
    """The status of each run of the sweep, in its order. Raises: InputError for a damaged submission."""
    placements = place_runs(load_submissions(out, sweep.name))
    return [read_status(config, out, placements.get(config.run_id)) for config in sweep.configs]


def place_runs(submissions: Sequence[Submission]) -> dict[str, Placement]:
    """Where each submitted run is, by run id. SLURM is asked once."""
    newest = {}
    for submission in submissions:
        for job_id, run_ids in submission.jobs.items():
            newest |= dict.fromkeys(run_ids, (submission, job_id))
    job_ids = {job_id for submission, job_id in newest.values() if submission.executor == "slurm"}
    known = read_jobs(job_ids) if job_ids else {}
    jobs: dict[tuple[str, str], Placement] = {}
    placements: dict[str, Placement] = {}
    for run_id, (submission, job_id) in newest.items():
        key = (str(submission.folder), job_id)
        if key not in jobs:
            jobs[key] = Placement(submission, job_id, (known or {}).get(job_id), known is not None)
        placements[run_id] = jobs[key]
    return placements


def read_status(config: RunConfig, out: Path, placement: Placement | None) -> RunStatus:
    """The status of one run, submitted or not."""
    folder = RunFolder(out / config.run_id)
    try:
        status = folder.read_status()
        check_object("status", status)
        settled = is_settled(folder, config)
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        status = {"state": "failed", "reason": f"damaged: {error}; remove the folder to start this run anew"}
        settled = False
    standing, reason = _decide(status, settled, folder, placement)
    epoch = min(int(status.get("epoch", 0)), config.epochs)
    newest = read_newest_record(folder) if "epoch" in status else {}
    log = folder.path / log_name(0)
    if placement is not None and standing == "stale" and placement.submission.executor == "slurm":
        log = placement.submission.logs / f"{placement.job_id}_0_log.err"
    return RunStatus(
        config=config,
        folder=folder,
        standing=standing,
        job_id=placement.job_id if placement is not None and standing in ("running", "pending", "stale") else "",
        epoch=epoch,
        reason=reason,
        interruptions=int(status.get("interruptions", 0)),
        images_per_second=newest.get("time/images_per_second"),
        fid=read_fid(folder, config, config.epochs if settled else None) if "epoch" in status else None,
        seconds_left=estimate_seconds_left(config, epoch, newest, folder) if standing == "running" else None,
        log=log,
    )


def _decide(
    status: dict[str, Any], settled: bool, folder: RunFolder, placement: Placement | None
) -> tuple[Standing, str]:
    """Where the run stands in its sweep, and the reason for it."""
    state, reason = status["state"], str(status.get("reason", ""))
    if settled:
        return "done", ""
    works = placement is not None and placement.works
    retried = works and placement is not None and status.get("updated", 0) < placement.submission.created
    if state == "failed" and not retried:
        return "failed", reason
    if works and placement is not None:
        running = state == "running" and not placement.waits
        return ("running", "") if running else ("pending", placement.job.reason if placement.job else "")
    fresh = placement is None and time.time() - status.get("updated", 0) < FRESH_SECONDS
    if state == "running" and (fresh or is_owned(folder)):
        return "running", ""
    if state == "queued" and placement is None and not folder.config_file.exists():
        return "missing", ""
    if state == "done":
        reason = "it has fewer epochs or evaluations than the sweep asks for now"
    return "stale", (reason if state != "running" else "") or _explain_end(placement)


def _explain_end(placement: Placement | None) -> str:
    if placement is None or placement.submission.executor == "local":
        return "its process ended without a word"
    ended = placement.job.state if placement.job is not None else "and SLURM has forgotten it"
    reason = f" ({placement.job.reason})" if placement.job is not None and placement.job.reason else ""
    return f"its job ended {ended}{reason}"


def read_newest_record(folder: RunFolder) -> Record:
    """The newest record that has a speed, {} for none; reads the file's end only."""
    text = read_end(folder.path / "records.jsonl")
    try:
        for line in reversed(text.splitlines(keepends=True)):
            for record in parse_records([line]):
                check_records([record])
                if record.get("time/epoch_seconds") is not None:
                    return record
    except ValueError:  # damaged, or where the end begins within a line
        pass
    return {}


def read_fid(folder: RunFolder, config: RunConfig, epoch: int | None) -> float | None:
    """The FID of prior samples under the run's first protocol, after an epoch, or the newest; None for none."""
    evaluation = find_evaluation(folder, config.protocol[0], config.image_size)
    lines = read_valid(evaluation, epoch) if evaluation is not None else []
    fids = {line["epoch"]: line.get("eval/fid") for line in lines if key_of(line)[1:] == ("prior", 0)}
    return fids[max(fids)] if fids else None


def read_valid(evaluation: EvaluationFolder, epoch: int | None = None) -> list[Record]:
    """The lines of an evaluation; none of a damaged one, of which `collect` says what is wrong."""
    try:
        lines = evaluation.read(epoch)
        check_evaluation(lines)
    except (OSError, ValueError, OverflowError):
        return []
    return lines


def read_evaluation_seconds(folder: RunFolder) -> float:
    """What the newest evaluation took, under all protocols; 0 where there was none yet."""
    total = 0.0
    for evaluation in folder.find_evaluations():
        lines = read_valid(evaluation)
        newest = max((line["epoch"] for line in lines), default=0)
        total += sum(line.get("time/evaluation_seconds") or 0.0 for line in lines if line["epoch"] == newest)
    return total


def estimate_seconds_left(config: RunConfig, epoch: int, newest: Record, folder: RunFolder) -> float | None:
    if not newest:
        return None
    evaluations = -(-(config.epochs - epoch) // config.eval_every)
    seconds = (config.epochs - epoch) * newest["time/epoch_seconds"]
    return seconds + evaluations * read_evaluation_seconds(folder)
