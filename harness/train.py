"""Training: one run from its configuration to its last record. Also `accelerate launch -m harness.train`."""

import sys
from contextlib import ExitStack
from pathlib import Path

from accelerate.utils import set_seed

from harness.config import RunConfig
from harness.data.sets import TrainingSet
from harness.data.staging import load_training_set
from harness.errors import InputError
from harness.evaluation.evaluate import Evaluator
from harness.launch.processes import Processes, build_accelerator, explaining_lost_peers
from harness.lock import owned
from harness.record import RunFolder
from harness.seeding import derive_seed
from harness.training.engine import Engine
from harness.training.feature_network import load_feature_network
from harness.training.guard import check_folder, create_folder
from harness.training.loop import Run
from variants import build


def train(config: RunConfig, out: Path) -> RunFolder:
    """Train and evaluate one run in its folder under `out`; a started run is resumed, a finished one left as it is.

    Raises: InputError for anything that the user can mend, before anything is written; DivergedError, with the status
        saying why; Interrupted after a signal, with everything saved; StorageError; PeerLostError.
    """
    folder = RunFolder(out / config.run_id)

    def is_done() -> bool:
        return folder.read_status()["state"] == "done"

    check_folder(folder, config)
    with ExitStack() as stack:
        stack.enter_context(explaining_lost_peers())
        processes = start_processes(config)
        if processes.on_main(is_done):
            return folder
        engine, data, evaluator = prepare(config, processes)
        with engine.raising_together():
            check_folder(folder, config)  # again, as preparing may have brought the data
            if engine.is_main_process:
                create_folder(folder, config)
                stack.enter_context(owned(folder))
        if not engine.on_main(is_done):  # by another launch, while this one was preparing
            Run(config, folder, engine, data, evaluator).run()
    return folder


def start_processes(config: RunConfig) -> Processes:
    """Raises: InputError unless the launch is as the run needs it, the same run on all its processes."""
    processes = Processes(
        build_accelerator(config.mixed_precision, config.gradient_accumulation, config.gradient_clipping)
    )
    processes.require_same("run", config.run_id)
    return processes


def prepare(config: RunConfig, processes: Processes | None = None) -> tuple[Engine, TrainingSet, Evaluator]:
    """Everything that can fail before anything is written. Raises: InputError."""
    processes = processes or start_processes(config)
    accelerator = processes.accelerator
    parts = accelerator.num_processes * config.gradient_accumulation
    if config.batch_size % parts:
        each = f" in {config.gradient_accumulation} parts each" if config.gradient_accumulation > 1 else ""
        raise InputError(
            f"batch_size = {config.batch_size} cannot be shared equally by {accelerator.num_processes} processes{each};"
            f" set it to a multiple of {parts}"
        )
    if config.batch_size == parts:
        raise InputError(
            f"batch_size = {config.batch_size} leaves one image for each of {parts} shares, and BatchNorm needs two; "
            f"set it to {2 * parts} or more"
        )
    data = processes.main_first(
        lambda: load_training_set(config.dataset, config.image_size, config.channels, config.max_images)
    )
    processes.require_same("data", data.sha256)
    if config.batch_size > len(data):
        raise InputError(
            f"batch_size = {config.batch_size} is more than the {len(data)} images of {config.dataset}; "
            f"set batch_size to {len(data)} or less"
        )
    set_seed(derive_seed(config.seed, "weights") % 2**32)
    options = config.build_options()
    variant = build(config.variant, options, data.image_shape, config.latent_dim, config.architecture)
    if variant.needs_feature_network:
        variant.feature_network = processes.main_first(lambda: load_feature_network(config, accelerator.device))
    engine = Engine(accelerator, variant, config)
    data = data.to(engine.device)
    return engine, data, Evaluator(config, data, engine)


if __name__ == "__main__":
    from harness.commands import main

    sys.exit(main())
