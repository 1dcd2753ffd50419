"""What a person sees of a sweep: its plan, its status in one table, its failures by cause."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import RunConfig
from slurm.plan import Plan
from slurm.process import read_end
from slurm.status import STATES, RunStatus

LOG_LINES = 5
NOT_OF_A_CELL = {"seed", "batch_size", "sweep"}


def build_console() -> Console:
    """Standard output; a pipe has no width of its own."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def describe_plan(plan: Plan) -> str:
    """How many runs are in which state, how the rest becomes jobs, and what that costs."""
    counts = Counter(status.state for status in plan.statuses)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{plan.sweep.name}: {len(plan.statuses)} runs: {states}"]
    if not plan.todo:
        return lines[0]
    options = plan.sweep.slurm
    lines.append(f"to submit: {len(plan.todo)} runs in {len(plan.jobs)} jobs of {options.world_size} processes")
    unknown = len(plan.todo) - len(plan.seconds)
    if plan.seconds:
        unit = "GPU-hours" if options.gpus_per_node else "process-hours"
        lengths = [
            sum(plan.seconds.get(config.run_id, 0) for config in job) / options.runs_at_once for job in plan.jobs
        ]
        measured = ", ".join(sorted({timing.measured for timing in plan.timings.values()}))
        lines.append(
            f"estimate: {plan.gpu_hours:.2f} {unit} ({measured}), "
            f"jobs of {min(lengths) / 60:.0f} to {max(lengths) / 60:.0f} minutes"
        )
    if unknown:
        lines.append(f"no estimate for {unknown} runs, so each counts as a whole job; --probe measures their kinds")
    return "\n".join(lines)


def build_table(statuses: Sequence[RunStatus]) -> Table:
    """One row per cell of the grid: everything but the seed."""
    table = Table(title_justify="left")
    flat = [flatten(status.config) for status in statuses]
    varying = find_varying_fields(flat)
    for name in ("variant", "data set", *varying, *STATES, "epochs", "ETA", "images/s", "last FID"):
        table.add_column(name, justify="left" if name in ("variant", "data set", *varying) else "right")
    cells: dict[tuple[str, ...], list[RunStatus]] = defaultdict(list)
    for status, fields in zip(statuses, flat, strict=True):
        data = f"{status.config.dataset} {status.config.image_size} px"
        cells[(status.config.variant, data, *(str(fields.get(name, "")) for name in varying))].append(status)
    for cell, members in cells.items():
        table.add_row(*cell, *_summarise(members))
    if len(cells) > 1:
        table.add_section()
        table.add_row("all", *[""] * (1 + len(varying)), *_summarise(statuses))
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
    options = {f"options.{name}": value for name, value in config.options.items()}
    return {**{name: getattr(config, name) for name in RunConfig.model_fields if name != "options"}, **options}


def describe_failures(statuses: Sequence[RunStatus]) -> str:
    """Runs that failed or went stale, by cause, each with the last lines of the log that says most."""
    causes: dict[tuple[str, str], list[RunStatus]] = defaultdict(list)
    for status in statuses:
        if status.state in ("failed", "stale"):
            cause = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", status.reason.replace(status.config.run_id, "RUN"))
            causes[status.state, cause].append(status)
    blocks = []
    for (state, _), members in sorted(causes.items(), key=lambda item: -len(item[1])):
        example = members[0]
        names = ", ".join(status.config.run_id for status in members[:3])
        more = f" and {len(members) - 3} more" if len(members) > 3 else ""
        lines = [line for line in read_end(example.log).splitlines() if line.strip()][-LOG_LINES:]
        indented = "".join(f"\n    {line}" for line in lines)
        blocks.append(f"{len(members)} {state}: {example.reason}\n  {names}{more}\n  {example.log}{indented}")
    return "\n".join(blocks)


def to_json(statuses: Sequence[RunStatus]) -> list[dict[str, Any]]:
    """A mapping per run, for programs."""
    return [
        {
            "run_id": status.config.run_id,
            "variant": status.config.variant,
            "options": status.config.options,
            "dataset": status.config.dataset,
            "image_size": status.config.image_size,
            "seed": status.config.seed,
            "state": status.state,
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


def format_seconds(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _summarise(members: Sequence[RunStatus]) -> list[str]:
    counts = Counter(status.state for status in members)
    left = [status.seconds_left for status in members if status.seconds_left is not None]
    speeds = [s.images_per_second for s in members if s.images_per_second is not None and s.state == "running"]
    fids = [status.fid for status in members if status.fid is not None]
    return [
        *(str(counts[state] or "") for state in STATES),
        f"{sum(status.epoch for status in members)}/{sum(status.config.epochs for status in members)}",
        format_seconds(max(left)) if left else "",
        f"{mean(speeds):.0f}" if speeds else "",
        f"{mean(fids):.2f}" if fids else "",
    ]
