"""Runs that differ in nothing but the seed, from their configurations to their last records, side by side in one model.

Each has its own folder, records, evaluations and checkpoints, as if it had been alone: any of them can be resumed
alone, or in other company. One that ends early, whatever ends it, leaves the others to go on.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config import RunConfig
from harness.data.sets import TrainingSet
from harness.errors import InputError
from harness.evaluation.evaluate import Evaluator
from harness.launch.processes import Processes
from harness.lock import owned
from harness.readings import is_settled
from harness.record import RunFolder
from harness.timing import Clock, clocking, timed
from harness.tracking.trackers import require_installed
from harness.training.engine import Engine
from harness.training.guard import check_folder, create_folder
from harness.training.loop import StepRequest, Steps, Training, build_engine, prepare, start_processes, train
from harness.training.side_by_side import SideBySide
from harness.training.signals import NotedSignals
from harness.training.stepping import Losses
from variants import Variant, build

logger = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of the losses of two steps: what float32 rounds is a hundredth of it


def train_together(configs: Sequence[RunConfig], out: Path, *, started: float | None = None) -> list[Exception | None]:
    """Train and evaluate each run in its folder under `out`, as `train` does; runs that are finished are left as they

    are. Runs that cannot be trained side by side are trained one after another, and a warning says why.

    Args: started: when this launch began, in seconds since 1970.
    Returns: what ended each run early, in the order of the configurations; None for one that is finished.
    Raises: InputError, before anything is written, for runs that differ in more than the seed.
    """
    started = time.time() if started is None else started
    require_alike(configs)
    obstacle = find_obstacle(configs[0])
    if obstacle is not None:
        logger.warning("%d seeds are trained one after another: %s", len(configs), obstacle)
    if obstacle is not None or len(configs) == 1:
        return [_end_of(config, out, started) for config in configs]
    ends: dict[int, Exception] = {}
    with ExitStack() as stack:
        processes = start_processes(configs[0])
        signals = stack.enter_context(NotedSignals(processes.num_processes))
        members = _gather(configs, out, processes, signals, started, stack, ends)
        if len(members) > 1 and (reason := _find_difference(members)) is not None:
            logger.warning("%d seeds are trained one after another: %s", len(members), reason)
            for member in members:
                _take_steps([member], ends)
        else:
            for member in members:
                member.training.share_with(len(members))
            _take_steps(members, ends)
    return [ends.get(number) for number in range(len(configs))]


def require_alike(configs: Sequence[RunConfig]) -> None:
    """Raises: InputError naming the fields besides the seed in which runs differ, or seeds that are equal."""
    fields = [config.model_dump(mode="json", exclude={"seed", "sweep", "search"}) for config in configs]
    different = [name for name in fields[0] if any(other[name] != fields[0][name] for other in fields)]
    if different:
        raise InputError(
            f"runs that train side by side differ in nothing but the seed; these differ in {', '.join(different)}"
        )
    if len({config.seed for config in configs}) < len(configs):
        raise InputError("runs that train side by side have a seed each; two of these have the same")


def find_obstacle(config: RunConfig) -> str | None:
    """Why a run's seeds cannot be trained side by side, as far as its configuration says so."""
    if config.mixed_precision == "fp16":
        return "fp16 has a loss scale for each of them"
    if config.step == "compiled":
        return "step = compiled compiles the modules of each"
    if config.trackers:
        return "a tracker follows one run at a time"
    return None


@dataclass
class _Member:
    """One run of several: `number` among the configurations, the step that it has asked for, and when it did."""

    number: int
    training: Training
    steps: Steps
    asked: StepRequest | None = None
    asked_at: float = 0.0


def _end_of(config: RunConfig, out: Path, started: float) -> Exception | None:
    try:
        train(config, out, started=started)
    except Exception as error:  # whatever ends a run leaves the others to go on
        return error
    return None


def _gather(
    configs: Sequence[RunConfig],
    out: Path,
    processes: Processes,
    signals: NotedSignals,
    started: float,
    stack: ExitStack,
    ends: dict[int, Exception],
) -> list[_Member]:
    """Every run that is not finished, ready to ask for steps: with data and evaluators that they share."""
    shared: tuple[TrainingSet, list[Evaluator]] | None = None
    members: list[_Member] = []
    for number, config in enumerate(configs):
        if _is_settled(config, out):
            continue
        clock, folder = Clock(processes.device), RunFolder(out / config.run_id)
        try:
            require_installed(config.trackers)
            check_folder(folder, config)
            with clocking(clock):
                clock.add("startup", (time.time() - started) if not members else 0.0)
                with timed("data"):
                    if shared is None:
                        engine, data, evaluators = prepare(config, processes)
                        shared = data, evaluators
                    else:
                        data, evaluators = shared
                        engine = build_engine(config, processes, data)
            check_folder(folder, config)
            create_folder(folder, config)
            stack.enter_context(owned(folder))
        except Exception as error:  # it is this run's alone
            ends[number] = error
            continue
        training = Training(config, folder, engine, data, evaluators, clock, signals, alone=False)
        members.append(_Member(number, training, training.run()))
    return members


def _is_settled(config: RunConfig, out: Path) -> bool:
    with suppress(OSError, ValueError):  # of a damaged folder, of which it is said when it is checked
        return is_settled(RunFolder(out / config.run_id), config)
    return False


def _take_steps(members: Sequence[_Member], ends: dict[int, Exception]) -> None:
    """Give the runs the steps that they ask for, all of one step at a time, each to its end."""
    for member in members:
        _go_on(member, None, ends)
    company: list[_Member] = []
    model: SideBySide | None = None
    while asking := [member for member in members if member.asked is not None]:
        if asking != company:
            company, model = asking, _build_model(asking)
        began = time.perf_counter()
        try:
            losses = _step(asking, model)
        except Exception as error:  # each records why it ends
            for member in asking:
                _go_on(member, error, ends)
            continue
        used = time.perf_counter() - began
        for member, of_member in zip(asking, losses, strict=True):
            member.training.elsewhere += time.perf_counter() - member.asked_at - used / len(asking)
            _go_on(member, of_member, ends)


def _step(asking: Sequence[_Member], model: SideBySide | None) -> list[Losses]:
    requests = [member.asked for member in asking if member.asked is not None]
    if model is None:
        return [asking[0].training.engine.step(requests[0].x, requests[0].step)]
    losses = model.step([request.x for request in requests], [request.step for request in requests])
    if model.device.type == "cuda" and any(member.training.ends_epoch(request) for member, request in _pairs(asking)):
        torch.cuda.synchronize()  # what all of them have waited for is not counted as one's
    return losses


def _pairs(asking: Sequence[_Member]) -> list[tuple[_Member, StepRequest]]:
    return [(member, member.asked) for member in asking if member.asked is not None]


def _go_on(member: _Member, sent: Losses | Exception | None, ends: dict[int, Exception]) -> None:
    """Let a run go on with its losses, or with what its step raised, until it asks for the next one."""
    member.asked = None
    try:
        with clocking(member.training.clock):
            if sent is None:
                member.asked = next(member.steps)
            elif isinstance(sent, Exception):
                member.asked = member.steps.throw(sent)
            else:
                member.asked = member.steps.send(sent)
        member.asked_at = time.perf_counter()
    except StopIteration:
        return
    except Exception as error:  # whatever ends a run leaves the others to go on
        ends[member.number] = error


def _build_model(members: Sequence[_Member]) -> SideBySide | None:
    """Of two or more."""
    if len(members) == 1:
        return None
    return SideBySide([member.training.engine for member in members], _build_variant(members[0].training))


def _build_variant(training: Training) -> Variant:
    config, shape = training.config, training.data.image_shape
    return build(config.variant, config.options, shape, config.latent_dim, config.architecture)


def _find_difference(members: Sequence[_Member]) -> str | None:
    """Why the variant's seeds cannot be trained side by side, found by training copies of two for two steps; or None.

    A user's own variant may do what torch.vmap does not take, or takes and does otherwise.
    """
    trainings = [member.training for member in members[:2]]
    copies, alone = ([_copy(training) for training in trainings] for _ in range(2))
    n = trainings[0].config.batch_size
    images = [training.data.batch(torch.arange(n), training.processes.device) for training in trainings]
    try:
        model = SideBySide(copies, _build_variant(trainings[0]))
        for step in range(2):
            losses = model.step(images, [step, step])
            for engine, x, found in zip(alone, images, losses, strict=True):
                for name, expected in engine.step(x, step).items():
                    if not torch.allclose(found[name], expected, rtol=TOLERANCE, atol=TOLERANCE):
                        return f"loss/{name} is {found[name].item():.6g}, where alone it is {expected.item():.6g}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what vmap raises of somebody's own code is open-ended
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _copy(training: Training) -> Engine:
    """An engine with the weights of the run's, and without its moments."""
    engine = Engine(
        training.processes, _build_variant(training), training.config, training.engine.variant.context._features
    )
    engine.load_tensors(training.engine.variant.state_dict(), {}, None)
    return engine
