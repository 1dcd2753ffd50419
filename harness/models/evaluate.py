"""Finished runs scored again, under any protocol, from the weights that they have kept. Nothing is trained."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from harness.config import RunConfig, build_config
from harness.data.staging import load_training_set
from harness.errors import InputError
from harness.evaluation.evaluate import Evaluator
from harness.fields import FIELDS
from harness.files import make_folder
from harness.launch.processes import Processes, build_accelerator, explaining_lost_peers
from harness.lock import is_owned, lock_of
from harness.models.load import load_trained, require_trust
from harness.readings import is_measured, list_parts, read_run, require_same_extractor
from harness.record import RunFolder, find_run_folders
from harness.terminal import Bar
from harness.training.checkpoint import find_checkpoint, find_weights
from harness.training.evaluations import RunEvaluations
from harness.training.recorder import Recorder

Which = Literal["last", "best", "all"]


@dataclass(frozen=True)
class Task:
    """One run, as it is to be evaluated, and the epochs of which something is missing."""

    folder: RunFolder
    config: RunConfig
    trained: int
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """What is to be measured of finished runs.

    Args: protocols: names or files; those that each run was trained with if there are none. extractor: instead of the
        protocols' own. epoch: whose weights. settings: fields of the configuration that change what is measured.
        trust_code: whether variants may be imported that are not ours.
    """

    protocols: tuple[str, ...] = ()
    extractor: str | None = None
    epoch: Which = "last"
    settings: dict[str, Any] = field(default_factory=dict)
    trust_code: bool = False


def plan_evaluations(roots: Sequence[Path], asked: Asked) -> tuple[list[Task], int, list[str]]:
    """What is missing of what is asked of all runs below these folders.

    Returns: a task for each run of which something is missing, the number of runs of which nothing is, and a sentence
        for each run that cannot be evaluated as it is.
    Raises: InputError for a setting that changes the training, and where no run can be evaluated, saying why.
    """
    for name in asked.settings:
        if name not in FIELDS or FIELDS[name].changes != "measurement":
            raise InputError(f"{name} does not change how finished runs are scored; it is given to aaebench run")
    folders = [folder for root in roots for folder in _find_runs(root)]
    tasks, complete, reasons = [], 0, []
    for folder in folders:
        try:
            config, trained = _read_run(folder, asked)
            epochs = _find_missing(folder, config, asked.epoch, trained)
        except InputError as error:
            reasons.append(str(error))
            continue
        if epochs:
            tasks.append(Task(folder, config, trained, epochs))
        else:
            complete += 1
    if reasons and not tasks and not complete:
        raise InputError("\n".join(reasons))
    return tasks, complete, reasons


def evaluate_runs(tasks: Sequence[Task]) -> None:
    """Measure what is missing, on every process of the launch; what a kill leaves is found and made by the next call.

    Raises: InputError for a run of other data than are staged, or an extractor that has changed since a reading was
        begun; DivergedError for a score that is not finite.
    """
    with explaining_lost_peers():
        processes = Processes(build_accelerator("no"))
        processes.require_same("tasks", [(task.folder.path.name, task.epochs) for task in tasks])
        evaluators = _cached_evaluators(processes)
        with Bar("epochs", disable=not processes.is_main_process) as display:
            bar = display.add_task("", total=sum(len(task.epochs) for task in tasks))
            for task in tasks:
                with _holding(task.folder, processes):
                    for epoch in task.epochs:
                        display.update(bar, description=f"{task.folder.path.name}, epoch {epoch}")
                        _evaluate(task, epoch, evaluators(_describe_data(task.config)), processes)
                        display.advance(bar)


def _find_runs(root: Path) -> list[RunFolder]:
    folders = list(find_run_folders(root)) if root.is_dir() else []
    if not folders:
        raise InputError(f"{root} holds no run folders; name the folder that `aaebench run --out` wrote to")
    return folders


def _read_run(folder: RunFolder, asked: Asked) -> tuple[RunConfig, int]:
    """A run's configuration with what is to be measured, and how many epochs it has been trained for."""
    try:
        stored, status, _ = read_run(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.path} is damaged: {error}") from error
    require_trust(folder.path, stored, asked.trust_code)
    if status["state"] != "done" or is_owned(folder):
        progress = f"epoch {status['epoch']} of {stored['epochs']}"
        raise InputError(
            f"{folder.path} is not finished ({status['state']}, {progress}); it evaluates itself while it trains"
        )
    wanted: dict[str, Any] = {**asked.settings}
    if asked.protocols:
        wanted["protocol"] = list(asked.protocols)
    if asked.extractor is not None:
        wanted["extractor"] = asked.extractor
    return build_config(stored, wanted), status["epoch"]


def _find_missing(folder: RunFolder, config: RunConfig, which: Which, trained: int) -> tuple[int, ...]:
    """The epochs asked for of which not everything is measured. Raises: InputError if their weights were not kept."""
    kept = find_weights(folder)
    if which == "best":
        best = find_checkpoint(folder.checkpoints, "best")
        wanted = [int(best.name.split("-")[1])]
    else:
        wanted = [trained] if which == "last" else sorted(kept)
    if lost := [epoch for epoch in wanted if epoch not in kept]:
        there = ", ".join(map(str, sorted(kept))) or "none"
        raise InputError(f"{folder.path} has not kept the weights of epoch {lost[0]}; of these it has: {there}")
    return tuple(
        epoch
        for epoch in wanted
        if not all(
            is_measured(folder, protocol, config.image_size, epoch, _list_parts(config, epoch == trained))
            for protocol in config.protocol
        )
    )


def _list_parts(config: RunConfig, last: bool) -> list[tuple[str, int]]:
    mechanisms = last and config.mechanisms
    return list_parts(config.samplers, config.sampling_seeds, reconstructions=last, mechanisms=mechanisms)


def _describe_data(config: RunConfig) -> str:
    """What evaluators depend on, as one string: the data and the protocols."""
    data = config.model_dump(
        mode="json", include={"dataset", "image_size", "channels", "crop", "max_images", "protocol"}
    )
    return json.dumps(data, sort_keys=True)


def _cached_evaluators(processes: Processes) -> Any:
    """A function of `_describe_data`: runs of the same data share their evaluators."""

    @cache
    def build(described: str) -> list[Evaluator]:
        config = build_config(json.loads(described))
        data = processes.main_first(
            lambda: load_training_set(
                config.dataset, config.image_size, config.channels, config.max_images, config.crop
            )
        ).to(processes.device)
        return [Evaluator(protocol, data, processes, config.max_images) for protocol in config.protocol]

    return build


@contextmanager
def _holding(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """One evaluator at a time works on a run: a second one waits, and then finds what the first has measured."""
    with ExitStack() as stack:
        with processes.raising_together():
            if processes.is_main_process:
                make_folder(folder.evaluations)
                stack.enter_context(lock_of(folder.evaluations))
        yield


def _evaluate(task: Task, epoch: int, evaluators: Sequence[Evaluator], processes: Processes) -> None:
    folder, config = task.folder, task.config
    data = evaluators[0].data
    trained_on = processes.on_main(folder.read_environment).get("data_sha256")
    if trained_on != data.sha256:
        raise InputError(
            f"{folder.path} was trained on other data than {config.dataset} is now (SHA-256 {trained_on}, staged "
            f"{data.sha256}); stage what it was trained on"
        )
    for evaluator in evaluators:
        processes.on_main(partial(require_same_extractor, folder, evaluator.reading))
    with processes.raising_together():
        trained = load_trained(folder.path, epoch, processes.device, trust_code=True)
    recorder = Recorder(folder, processes, config.epochs)
    images_seen = epoch * data.steps_per_epoch(config.batch_size) * config.batch_size
    evaluations = RunEvaluations(config, folder, evaluators, recorder)
    evaluations.evaluate(trained.variant, epoch, images_seen, last=epoch == task.trained)
