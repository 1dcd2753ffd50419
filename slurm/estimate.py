"""How long runs take: by the records of earlier runs of the same kind, else by a short probe."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from harness.config import RunConfig
from harness.files import write_json
from harness.record import find_run_folders
from slurm.status import read_newest_records
from slurm.submission import sweep_folder

START_SECONDS = 10.0  # imports, data and weights, before the first step
EARLIER_RUNS = 3  # as many are averaged
COSTS_NOTHING = {"seed", "epochs", "learning_rate", "eval_every", "checkpoint_every", "sweep"}
Kind = str


@dataclass(frozen=True)
class Timing:
    """Seconds of one epoch and of one evaluation of a kind of run, and where they were measured."""

    epoch_seconds: float
    evaluation_seconds: float
    measured: str


def kind_of(fields: Mapping[str, Any]) -> Kind:
    """What a run's speed depends on, as one string."""
    return json.dumps({key: value for key, value in fields.items() if key not in COSTS_NOTHING}, sort_keys=True)


def kinds_of(configs: Collection[RunConfig]) -> dict[str, Kind]:
    """The kind of each run, by run id."""
    return {config.run_id: kind_of(config.model_dump(mode="json")) for config in configs}


def estimate_seconds(config: RunConfig, timing: Timing) -> float:
    """Seconds of a whole run, its evaluations before the first epoch and at the end included."""
    evaluations = 1 + -(-config.epochs // config.eval_every)
    return START_SECONDS + config.epochs * timing.epoch_seconds + evaluations * timing.evaluation_seconds


def load_timings(out: Path, sweep: str, kinds: Collection[Kind], world_size: int) -> dict[Kind, Timing]:
    """Timings of these kinds: from runs under `out` with as many processes, else from the sweep's last probe."""
    wanted = set(kinds)
    measured: dict[Kind, list[tuple[float, float]]] = defaultdict(list)
    timings = {kind: timing for kind, timing in load_probe(out, sweep).items() if kind in wanted}
    for folder in find_run_folders(out) if out.is_dir() else ():
        if not wanted:
            break
        try:
            kind = kind_of(folder.read_config())
            if kind not in wanted or folder.read_environment().get("num_processes") != world_size:
                continue
        except (OSError, ValueError):
            continue
        newest, evaluated = read_newest_records(folder)
        if "time/epoch_seconds" in newest and "time/evaluation_seconds" in evaluated:
            measured[kind].append((newest["time/epoch_seconds"], evaluated["time/evaluation_seconds"]))
            if len(measured[kind]) == EARLIER_RUNS:
                wanted.remove(kind)
    for kind, pairs in measured.items():
        epochs, evaluations = zip(*pairs, strict=True)
        timings[kind] = Timing(mean(epochs), mean(evaluations), "earlier runs")
    return timings


def load_probe(out: Path, sweep: str) -> dict[Kind, Timing]:
    """What the sweep's last probe measured; nothing if there was none or its file is damaged."""
    try:
        content = json.loads(_probe_file(out, sweep).read_text())
        return {kind: Timing(**timing) for kind, timing in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_probe(out: Path, sweep: str, timings: dict[Kind, Timing]) -> None:
    _probe_file(out, sweep).parent.mkdir(parents=True, exist_ok=True)
    write_json(_probe_file(out, sweep), {kind: asdict(timing) for kind, timing in timings.items()})


def _probe_file(out: Path, sweep: str) -> Path:
    return sweep_folder(out, sweep) / "probe.json"
