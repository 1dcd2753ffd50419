"""How long runs take: by the records of earlier runs of the same kind, else by a short probe of each kind.

A probe trains two epochs on some of a run's images, timed where the runs will run: `python -m slurm.estimate` in a job.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from harness.commands import call
from harness.config import RunConfig, build_config
from harness.data.cache import cache_folder
from harness.errors import InputError
from harness.files import make_folder, write_json
from harness.record import RunFolder, find_run_folders
from harness.terminal import console
from slurm.cluster import run_in_job
from slurm.status import read_evaluation_seconds, read_newest_record
from slurm.submission import sweep_folder

if TYPE_CHECKING:
    from slurm.sweep import Sweep

START_SECONDS = 10.0  # imports, data and weights, before the first step
EARLIER_RUNS = 3  # as many are averaged
COSTS_NOTHING = {
    *("seed", "epochs", "learning_rate", "eval_every", "eval_when", "checkpoint_every", "keep_checkpoints", "sweep"),
    "search",
}
PROBED_IMAGES, PROBED_BATCHES = 2048, 4  # at least so many are trained on in an epoch
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
        newest, evaluation_seconds = read_newest_record(folder), read_evaluation_seconds(folder)
        if newest and evaluation_seconds:
            measured[kind].append((newest["time/epoch_seconds"], evaluation_seconds))
            if len(measured[kind]) == EARLIER_RUNS:
                wanted.remove(kind)
    for kind, pairs in measured.items():
        epochs, evaluations = zip(*pairs, strict=True)
        timings[kind] = Timing(mean(epochs), mean(evaluations), "earlier runs")
    return timings


def load_probe(out: Path, sweep: str) -> dict[Kind, Timing]:
    """What the sweep's last probe measured; nothing if there was none or its file is damaged."""
    try:
        content = json.loads(_probe_file(out, sweep).read_text(encoding="utf-8"))
        return {kind: Timing(**timing) for kind, timing in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save_probe(out: Path, sweep: str, timings: dict[Kind, Timing]) -> None:
    make_folder(_probe_file(out, sweep).parent)
    write_json(_probe_file(out, sweep), {kind: asdict(timing) for kind, timing in timings.items()})


def _probe_file(out: Path, sweep: str) -> Path:
    return sweep_folder(out, sweep) / "probe.json"


def probe_kinds(sweep: "Sweep", out: Path, through_slurm: bool) -> None:
    """Measure each kind of run of the sweep, on one process, and keep the timings with the sweep.

    Raises: InputError if a run of some kind cannot be trained at all.
    """
    kinds = kinds_of(sweep.configs)
    examples = {kinds[config.run_id]: config for config in reversed(sweep.configs)}
    asked = {"folder": str(sweep.folder), "runs": [config.model_dump(mode="json") for config in examples.values()]}
    with console.status(f"probing {len(examples)} kinds of runs"):
        if through_slurm:
            printed = run_in_job(
                sweep.slurm,
                "slurm.estimate",
                text=json.dumps(asked),
                one_task=True,
                folders=[cache_folder(), sweep.folder],
            )
        else:
            command = [sys.executable, "-m", "slurm.estimate"]
            answer = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=False)
            if answer.returncode:
                raise InputError("the probe failed; its last message says why")
            printed = answer.stdout
    measured = json.loads(printed.splitlines()[-1])
    world_size = sweep.slurm.world_size
    timings = {
        kind: Timing(epoch / world_size, evaluation / world_size, "probe")
        for kind, (epoch, evaluation) in zip(examples, measured, strict=True)
    }
    save_probe(out, sweep.name, {**load_probe(out, sweep.name), **timings})


def measure(fields: dict[str, Any]) -> tuple[float, float]:
    """Seconds of an epoch and of an evaluation of this run, scaled up from a part of its images."""
    from harness.data.staging import load_training_set  # noqa: PLC0415 (in the probe only: they take seconds)
    from harness.train import train  # noqa: PLC0415

    config = build_config(fields)
    n = len(load_training_set(config.dataset, config.image_size, config.channels, config.max_images, config.crop))
    images = min(n, max(PROBED_IMAGES, PROBED_BATCHES * config.batch_size))
    protocols = [each.model_copy(update={"n_fake": min(each.n_fake or n, images)}) for each in config.protocol]
    short = {"max_images": images, "epochs": 2, "eval_every": 2, "protocol": protocols}
    with tempfile.TemporaryDirectory() as folder:
        trained = RunFolder(train(build_config(fields, short), Path(folder)).path)
        newest, seconds = read_newest_record(trained), read_evaluation_seconds(trained)
    generated = sum(n + (each.n_fake or n) for each in config.protocol)
    probed = sum(images + (each.n_fake or n) for each in protocols)
    return newest["time/epoch_seconds"] * n / images, seconds * generated / probed


def main() -> int:
    """The probe: runs on standard input, their measurements on the last line of standard output."""
    asked = json.load(sys.stdin)
    sys.path.append(asked["folder"])  # of the sweep, beside which own variants may lie
    return call(lambda: print(json.dumps([measure(fields) for fields in asked["runs"]])))


if __name__ == "__main__":
    sys.exit(main())
