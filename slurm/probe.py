"""A short probe of each kind of run: two epochs on some of its images, timed where the runs will run."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.config import build_config
from harness.data.staging import load_training_set
from harness.errors import CommandError, InputError
from harness.record import RunFolder
from harness.terminal import console
from harness.train import train
from slurm.estimate import Timing, kinds_of, load_probe, save_probe
from slurm.srun import run_in_job
from slurm.sweep import Sweep

IMAGES, BATCHES = 2048, 4  # at least so many are trained on in an epoch


def probe_kinds(sweep: Sweep, out: Path, through_slurm: bool) -> None:
    """Measure each kind of run of the sweep, on one process, and keep the timings with the sweep.

    Raises: InputError if a run of some kind cannot be trained at all.
    """
    kinds = kinds_of(sweep.configs)
    examples = {kinds[config.run_id]: config for config in reversed(sweep.configs)}
    text = json.dumps([config.model_dump(mode="json") for config in examples.values()])
    with console.status(f"probing {len(examples)} kinds of runs"):
        if through_slurm:
            printed = run_in_job(sweep.slurm, "slurm.probe", text=text)
        else:
            command = [sys.executable, "-m", "slurm.probe"]
            answer = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=False)
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


def measure(fields: dict[str, object]) -> tuple[float, float]:
    """Seconds of an epoch and of an evaluation of this run, scaled up from a part of its images."""
    config = build_config(fields)
    n = len(load_training_set(config.dataset, config.image_size, config.channels, config.max_images, config.crop))
    images = min(n, max(IMAGES, BATCHES * config.batch_size))
    short = {"max_images": images, "epochs": 2, "eval_every": 2, "n_fake": min(config.n_fake or n, images)}
    with tempfile.TemporaryDirectory() as folder:
        last = RunFolder(train(build_config(fields, short), Path(folder)).path).read_records()[-1]
    generated = (n + (config.n_fake or n)) / (images + short["n_fake"])
    return last["time/epoch_seconds"] * n / images, last["time/evaluation_seconds"] * generated


def main() -> int:
    try:
        print(json.dumps([measure(fields) for fields in json.load(sys.stdin)]))
    except CommandError as error:
        print(f"aaebench: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
