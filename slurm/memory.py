"""How many runs share a GPU, or a machine's cores, at a time: as many as its memory and its cores allow.

What a run needs is measured, not computed: `python -m slurm.memory` trains a few steps of the most demanding run and
evaluates a few images, in a process that gives all of it back.

Nothing here imports torch: a job asks as well.
"""

# ruff: noqa: PLC0415 (what the probe alone needs takes seconds to import)
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands import call
from harness.errors import InputError
from harness.record import RunFolder
from harness.terminal import say
from slurm import AtOnce
from slurm.process import PlannedRun, is_over

if TYPE_CHECKING:
    from torch import device

USED = 0.9  # by auto, of the memory that is free: runs differ a little, and others want some
STEPS = 6  # those that a captured step is warmed up by, its capture and two replays
# That are generated and scored on cores and on a GPU, where extractors take larger batches. The posterior and the
# reference are those of the whole run.
PROBED_IMAGES = (64, 1024)
GB = 1e9


@dataclass(frozen=True)
class Demand:
    """Bytes: what a run takes at most of its GPU, or of the machine where there is none, and what was free there."""

    needed: int
    free: int

    def count(self, used: float = 1.0) -> int:
        """Runs at a time within this part of what is free, at least one."""
        return max(1, int(used * self.free / self.needed))


def choose_at_once(
    asked: AtOnce,
    runs: Sequence[PlannedRun],
    out: Path,
    gpus: int,
    cores: int,
    environment: Mapping[str, str] = os.environ,
    python: Sequence[str] = (sys.executable,),
    seeds: int = 1,
) -> int:
    """Processes at a time on each GPU, or on the cores where there is none.

    On a GPU `auto` is what its memory and its share of the cores allow; on cores half of them, without a probe, which
    takes seconds: so many runs seldom want for memory. A number is taken as it is if there is memory for so many, and
    a probe is made only for one that may be too many.

    Args: environment, python: as the runs have them; they see the GPU that is probed. seeds: how many runs a process
        trains side by side; it is taken to need as many times the memory.
    Raises: InputError if there is no memory for the number that was asked for.
    """
    left = [run for run in runs if not _is_done(run, out)]
    places = max(1, gpus)
    turns = -(-len(left) // (places * seeds))
    most = max(1, min(turns, cores // places if gpus else cores // 2))
    if asked == "auto":
        if not gpus or most == 1:
            return most
        demand = measure_demand(choose_probed(left), environment, python, seeds)
        return 1 if demand is None else min(most, demand.count(USED))
    together = min(asked, turns)
    if together > (1 if gpus else max(1, cores // 2)):
        demand = measure_demand(choose_probed(left), environment, python, seeds)
        if demand is not None and together > demand.count():
            raise InputError(
                f"at_once = {asked} needs {together} x {demand.needed / GB:.1f} GB, and {demand.free / GB:.1f} GB are "
                f"free: at most {demand.count()} (--at-once auto)"
            )
    return asked


def _is_done(run: PlannedRun, out: Path) -> bool:
    try:
        return is_over(RunFolder(out / run.run_id), run)
    except (OSError, ValueError):  # damaged: whoever starts it says so
        return False


def choose_probed(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """The fields of the most demanding run: the most pixels a step, and of these the larger networks."""

    def demand(run: PlannedRun) -> tuple[int, bool]:
        fields = run.config
        return fields["batch_size"] * fields["image_size"] ** 2, fields["architecture"] == "conv"

    return max(runs, key=demand).config


def measure_demand(
    fields: Mapping[str, Any],
    environment: Mapping[str, str],
    python: Sequence[str] = (sys.executable,),
    seeds: int = 1,
) -> Demand | None:
    """What a process of so many seeds needs, by a probe of one run.

    None, with a message, if the probe failed: the run itself will say why.
    """
    asked = json.dumps({"fields": fields, "path": sys.path})
    started = time.monotonic()
    answer = subprocess.run(
        [*python, "-m", "slurm.memory"], input=asked, env=environment, capture_output=True, text=True, check=False
    )
    try:
        demand = Demand(**json.loads(answer.stdout.splitlines()[-1]))
        demand = replace(demand, needed=seeds * demand.needed)
    except (ValueError, TypeError, IndexError):
        said = [line for line in answer.stderr.splitlines() if line.strip()] or [f"exit status {answer.returncode}"]
        say(f"a run's memory could not be measured: {said[-1].removeprefix('aaebench: ')}")
        return None
    say(
        f"{'a run takes' if seeds == 1 else f'{seeds} seeds take'} {demand.needed / GB:.1f} GB of "
        f"{demand.free / GB:.1f} GB that are free: "
        f"{demand.count()} at once at most (measured in {time.monotonic() - started:.0f} s)"
    )
    return demand


def measure(fields: dict[str, Any]) -> Demand:
    """Train and evaluate a little of a run, in this process. Raises: as training it."""
    import psutil
    import torch

    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else psutil.virtual_memory().available
    device = train_a_little(fields)
    return measure_gpu(free, device) if device.type == "cuda" else Demand(read_peak(), free)


def train_a_little(fields: dict[str, Any]) -> "device":
    """Returns: the device on which it did."""
    import torch

    from harness.config import build_config
    from harness.readings import POSTERIOR
    from harness.train import prepare

    n_fake = PROBED_IMAGES[torch.cuda.is_available()]
    few = [each.model_copy(update={"n_fake": n_fake}) for each in build_config(fields).protocol]
    config = build_config(fields, {"protocol": few})
    engine, data, evaluators = prepare(config)
    device = engine.processes.device
    batches = data.epoch(config.seed, 0, config.batch_size, 0, 1)
    for step, indices in zip(range(STEPS), batches, strict=False):
        engine.step(data.batch(indices, device), step)
    with engine.evaluating():
        for evaluator in evaluators:
            evaluator.evaluate(engine.variant, config.seed, [POSTERIOR, ("prior", 0)])
    return device


def read_peak() -> int:
    """The most memory that this process has had. It counts libraries that runs have in common as each one's own."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_gpu(free: int, device: "device") -> Demand:
    """The most that PyTorch's allocator has held, and beside it the context, kernels and libraries of a process.

    The context is what another process, which only makes one, leaves less of. GPUs of a machine are taken to be alike.

    Args: free: what was free when this process had nothing but its context.
    """
    import torch

    torch.cuda.synchronize(device)
    most = torch.cuda.max_memory_reserved(device)
    free_now, held = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_reserved(device)
    code = "import torch; print(torch.cuda.mem_get_info()[0])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    context = max(0, free_now - int(answer.stdout))
    return Demand(most + max(0, free - free_now - held) + context, free + context)


def main() -> int:
    """The probe: a run's fields on standard input, its demand on the last line of standard output."""
    asked = json.load(sys.stdin)
    sys.path += [folder for folder in asked["path"] if folder not in sys.path]  # own variants lie beside the sweep
    return call(lambda: print(json.dumps(asdict(measure(asked["fields"])))))


if __name__ == "__main__":
    sys.exit(main())
