"""What a person sees of a sweep: its plan, its status in one table, its failures by cause, the logs of a run."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from harness.config import RunConfig
from harness.errors import InputError, unknown
from harness.escape import printable
from harness.measures import name_fid
from harness.record import find_run_folders
from slurm.plan import Plan
from slurm.process import read_end
from slurm.request import read_site
from slurm.status import STANDINGS, RunStatus
from slurm.submission import load_submissions
from slurm.sweep import Sweep

LOG_LINES = 5
NOT_OF_A_CELL = {"seed", "sweep", "search"}
LONG = 30  # characters, beyond which a name is folded, as a path


def describe_plan(plan: Plan) -> str:
    """How many runs stand how, how the rest becomes jobs, and what that costs."""
    counts = Counter(status.standing for status in plan.statuses)
    standings = ", ".join(f"{counts[standing]} {standing}" for standing in STANDINGS if counts[standing])
    lines = [f"{plan.sweep.name}: {len(plan.statuses)} runs: {standings}"]
    lines += plan.sweep.search.describe() if plan.sweep.search is not None else []
    if not plan.todo:
        return "\n".join(lines)
    options = plan.sweep.slurm
    lines.append(f"to submit: {len(plan.todo)} runs in {len(plan.jobs)} jobs of {options.world_size} processes")
    unestimated = len(plan.todo) - len(plan.seconds)
    if plan.seconds:
        unit = "GPU-hours" if options.gpus_per_node else "process-hours"
        lengths = [
            sum(plan.seconds.get(config.run_id, 0) for config in job) / options.planned_at_once for job in plan.jobs
        ]
        measured = ", ".join(sorted({timing.measured for timing in plan.timings.values()}))
        lines.append(
            f"estimate: {plan.gpu_hours:.2f} {unit} ({measured}), "
            f"jobs of {min(lengths) / 60:.0f} to {max(lengths) / 60:.0f} minutes"
        )
    if unestimated:
        lines.append(f"no estimate for {unestimated} runs, so each counts as a whole job; --probe measures their kinds")
    return "\n".join(lines)


def describe_site(sweep: Sweep) -> list[str]:
    """Where the sweep file is silent and the environment is not: a line for each option that it sets."""
    site = read_site(sweep.content.get("slurm") or {})
    return [f"slurm.{option} = {value or 'true'}, from {variable}" for variable, (option, value) in site.items()]


def build_table(statuses: Sequence[RunStatus]) -> Table:
    """One row per cell of the grid: everything but the seed. The FID is the mean of the cell's runs that are done,
    images/s that of those under way.
    """
    table = Table(title_justify="left")
    flat = [flatten(status.config) for status in statuses]
    varying = find_varying_fields(flat)
    standings = [each for each in STANDINGS if any(status.standing == each for status in statuses)]
    cells: dict[tuple[str, ...], list[RunStatus]] = defaultdict(list)
    for status, fields in zip(statuses, flat, strict=True):
        data = f"{status.config.dataset} {status.config.image_size} px"
        cells[(status.config.variant, data, *(str(fields.get(name, "")) for name in varying))].append(status)
    fid = name_fid(status.config.protocol[0].extractor for status in statuses)
    for name in ("variant", "data set", *varying):
        table.add_column(name, overflow="fold", max_width=LONG)
    for name in (*standings, "epochs", "ETA", "images/s", f"last {fid}"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell, members in cells.items():
        fids = [status.fid for status in members if status.standing == "done" and status.fid is not None]
        speeds = [s.images_per_second for s in members if s.images_per_second is not None and s.standing == "running"]
        means = (f"{mean(speeds):.0f}" if speeds else "", f"{mean(fids):.2f}" if fids else "")
        table.add_row(*cell, *_summarise(members, standings), *means)
    if len(cells) > 1:
        table.add_section()
        table.add_row("all", *[""] * (1 + len(varying)), *_summarise(statuses, standings))  # which have no mean
    return table


def find_varying_fields(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The fields by which runs of one variant and data set differ, the seed apart."""
    values: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(lambda: defaultdict(set))
    for fields in runs:
        seen = values[fields["variant"], fields["dataset"], fields["image_size"]]
        for name, value in fields.items():
            seen[name].add(value if isinstance(value, (str, int, float)) else str(value))
    varying = {name for fields in values.values() for name, found in fields.items() if len(found) > 1}
    return sorted(varying - NOT_OF_A_CELL)


def flatten(config: RunConfig) -> dict[str, Any]:
    """The fields of a run, each option of its variant as `options.<name>`."""
    options = {f"options.{name}": value for name, value in vars(config.options).items()}
    protocols = {"protocol": ", ".join(protocol.name for protocol in config.protocol)}
    return {
        **{name: getattr(config, name) for name in RunConfig.model_fields if name != "options"},
        **protocols,
        **options,
    }


def describe_failures(statuses: Sequence[RunStatus]) -> str:
    """Runs that failed or went stale, by cause, each with the last lines of the log that says most."""
    causes: dict[tuple[str, str], list[RunStatus]] = defaultdict(list)
    for status in statuses:
        if status.standing in ("failed", "stale"):
            cause = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", status.reason.replace(status.config.run_id, "RUN"))
            causes[status.standing, cause].append(status)
    blocks = []
    for (standing, _), members in sorted(causes.items(), key=lambda item: -len(item[1])):
        example = members[0]
        names = ", ".join(status.config.run_id for status in members[:3])
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        lines = [line for line in read_end(example.log).splitlines() if line.strip()][-LOG_LINES:]
        indented = "".join(f"\n    {line}" for line in lines)
        blocks.append(f"{len(members)} {standing}: {example.reason}\n  {names}{more}\n  {example.log}{indented}")
    return printable("\n".join(blocks), lines=True)


def to_json(statuses: Sequence[RunStatus]) -> list[dict[str, Any]]:
    """A mapping per run, for programs."""
    return [
        {
            "run_id": status.config.run_id,
            "variant": status.config.variant,
            "options": vars(status.config.options),
            "dataset": status.config.dataset,
            "image_size": status.config.image_size,
            "seed": status.config.seed,
            "state": status.standing,
            "epoch": status.epoch,
            "epochs": status.config.epochs,
            "seconds_left": status.seconds_left,
            "images_per_second": status.images_per_second,
            "fid": status.fid,
            "interruptions": status.interruptions,
            "reason": status.reason,
            "job": status.job_id,
            "log": str(status.log),
        }
        for status in statuses
    ]


def print_logs(run: str, out: Path, lines: int) -> None:
    """The ends of a run's logs: its processes' in its folder, and those of the job that ran it last.

    Raises: InputError if no run under `out`, or more than one, answers to that name.
    """
    folder = _find_run(run, out)
    files = sorted(folder.glob("log*.txt"))
    for name in sorted({path.parent.parent.name for path in (out / "sweeps").glob("*/*/submission.json")}):
        for submission in reversed(load_submissions(out, name)):
            jobs = [job_id for job_id, run_ids in submission.jobs.items() if folder.name in run_ids]
            found = [file for job_id in jobs for file in sorted(submission.logs.glob(f"{job_id}_*_log.*"))]
            if found:
                files += found
                break
    if not files:
        raise InputError(f"{folder} has no log yet")
    for file in files:
        text = file.read_text(errors="replace").splitlines()
        print(printable("\n".join([f"==> {file} <==", *text[-lines if lines else 0 :]]), lines=True))


def _find_run(run: str, out: Path) -> Path:
    folders = {folder.path.name: folder.path for folder in find_run_folders(out)} if out.is_dir() else {}
    if run in folders:
        return folders[run]
    matching = [name for name in folders if run in name]
    if not matching:
        raise InputError(f"{out}: {unknown('run', run, folders)}")
    if len(matching) > 1:
        raise InputError(f"{out}: {len(matching)} runs have {run!r} in their names: {', '.join(sorted(matching)[:5])}")
    return folders[matching[0]]


def format_seconds(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _summarise(members: Sequence[RunStatus], standings: Sequence[str]) -> list[str]:
    counts = Counter(status.standing for status in members)
    left = [status.seconds_left for status in members if status.seconds_left is not None]
    return [
        *(str(counts[standing] or "") for standing in standings),
        f"{sum(status.epoch for status in members)}/{sum(status.config.epochs for status in members)}",
        format_seconds(max(left)) if left else "",
    ]
