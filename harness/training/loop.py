"""The story of one run: from its configuration to its last record, resumed wherever it was left."""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import set_seed
from torch import Tensor

from harness.config import RunConfig
from harness.data.sets import TrainingSet
from harness.data.staging import load_training_set
from harness.errors import DivergedError, InputError, Interrupted
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.grids import save_samples
from harness.launch.processes import Processes, build_accelerator, explaining_lost_peers
from harness.lock import owned
from harness.protocol import Normalisation
from harness.readings import is_settled
from harness.record import Record, RunFolder
from harness.seeding import derive_seed
from harness.terminal import say
from harness.timing import Clock, clocking, timed
from harness.tracking.senders import TrackedRun
from harness.tracking.trackers import require_installed, tracking
from harness.training.checkpoint import (
    Progress,
    find_weights,
    load_checkpoint,
    read_weights,
    save_checkpoint,
    save_weights,
)
from harness.training.engine import Engine
from harness.training.environment import describe_environment
from harness.training.evaluations import RunEvaluations
from harness.training.feature_network import load_feature_network
from harness.training.guard import check_folder, create_folder
from harness.training.profiling import Profile
from harness.training.progress import TrainingProgress
from harness.training.recorder import Recorder
from harness.training.signals import NotedSignals
from harness.training.stepping import Losses
from variants import build

AGREE_EVERY = 16  # steps between two agreements of several processes on whether to stop


def train(config: RunConfig, out: Path, *, started: float | None = None, profile: bool = False) -> RunFolder:
    """Train and evaluate one run in its folder under `out`; a started run is resumed, a finished one left as it is.

    A finished run that is asked for more epochs goes on from its end; one that is asked for other protocols, samplers
    or sampling seeds is not trained, and what is missing is measured of the weights that it has kept.

    Args: started: when this launch began, in seconds since 1970, for the records of its time; now if it is not given.
        profile: write a trace of the last steps before an evaluation and of that evaluation (see Profile).
    Raises: InputError for anything that the user can mend, before anything is written; DivergedError, with the status
        saying why; Interrupted after a signal, with everything saved; StorageError; PeerLostError.
    """
    started = time.time() if started is None else started
    folder = RunFolder(out / config.run_id)
    require_installed(config.trackers)
    check_folder(folder, config)
    with ExitStack() as stack:
        stack.enter_context(explaining_lost_peers())
        processes = start_processes(config)
        clock = stack.enter_context(clocking(Clock(processes.device)))
        if processes.on_main(lambda: is_settled(folder, config)):
            if profile and processes.is_main_process:
                say(f"{folder.path} is finished: nothing is run, so there is nothing to profile")
            return folder
        clock.add("startup", time.time() - started)
        with timed("data"):
            engine, data, evaluators = prepare(config, processes)
        with processes.raising_together():
            check_folder(folder, config)  # again, as preparing may have brought the data
            if processes.is_main_process:
                create_folder(folder, config)
                stack.enter_context(owned(folder))
        if not processes.on_main(lambda: is_settled(folder, config)):  # by another launch, while this one prepared
            with NotedSignals(processes.num_processes) as signals:
                take_steps(Training(config, folder, engine, data, evaluators, clock, signals, profile=profile))
    return folder


def take_steps(training: "Training") -> None:
    """Give a run the steps that it asks for, one after another, to its end."""
    steps, losses = training.run(), None
    while True:
        try:
            request = next(steps) if losses is None else steps.send(losses)
        except StopIteration:
            return
        try:
            losses = training.engine.step(request.x, request.step)
        except Exception as error:
            steps.throw(error)  # it records why it ends
            raise


def start_processes(config: RunConfig) -> Processes:
    """Raises: InputError unless the launch is as the run needs it, the same run on all its processes."""
    processes = Processes(
        build_accelerator(config.mixed_precision, config.gradient_accumulation, config.gradient_clipping)
    )
    processes.require_same("run", config.run_id)
    processes.require_same("budget", config.epochs)
    return processes


def prepare(config: RunConfig, processes: Processes | None = None) -> tuple[Engine, TrainingSet, list[Evaluator]]:
    """Everything that can fail before anything is written; an evaluator for each protocol. Raises: InputError."""
    processes = processes or start_processes(config)
    data = load_data(config, processes)
    engine = build_engine(config, processes, data)
    data = data.to(processes.device)
    return engine, data, [Evaluator(protocol, data, processes, config.max_images) for protocol in config.protocol]


def load_data(config: RunConfig, processes: Processes) -> TrainingSet:
    """Raises: InputError unless the batches of the run can be made of it."""
    parts = processes.num_processes * config.gradient_accumulation
    if config.batch_size % parts:
        each = f" in {config.gradient_accumulation} parts each" if config.gradient_accumulation > 1 else ""
        raise InputError(
            f"batch_size = {config.batch_size} cannot be shared equally by {processes.num_processes} processes{each};"
            f" set it to a multiple of {parts}"
        )
    if config.batch_size == parts:
        raise InputError(
            f"batch_size = {config.batch_size} leaves one image for each of {parts} shares, and BatchNorm needs two; "
            f"set it to {2 * parts} or more"
        )
    data = processes.main_first(
        lambda: load_training_set(config.dataset, config.image_size, config.channels, config.max_images, config.crop)
    )
    processes.require_same("data", data.sha256)
    if config.batch_size > len(data):
        raise InputError(
            f"batch_size = {config.batch_size} is more than the {len(data)} images of {config.dataset}; "
            f"set batch_size to {len(data)} or less"
        )
    return data


def build_engine(config: RunConfig, processes: Processes, data: TrainingSet) -> Engine:
    """With the weights that follow from the seed."""
    set_seed(derive_seed(config.seed, "weights") % 2**32)
    variant = build(config.variant, config.options, data.image_shape, config.latent_dim, config.architecture)
    features = None
    if variant.needs_feature_network:
        features = processes.main_first(lambda: load_feature_network(config, processes.device))
    return Engine(processes, variant, config, features)


class StepRequest(NamedTuple):
    """Images (B / num_processes, C, S, S), and the number of the step that is to be taken on them."""

    x: Tensor
    step: int


Steps = Generator[StepRequest, Losses, None]  # asks for steps, and is sent their losses


class Training:
    """One run under way: its engine, its data, how it is evaluated, and what it writes.

    It asks for its steps and does not take them: whoever takes them may take those of several runs at once.
    `elsewhere` are the seconds that others have used meanwhile, where there are others.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        engine: Engine,
        data: TrainingSet,
        evaluators: Sequence[Evaluator],
        clock: Clock,
        signals: NotedSignals,
        *,
        alone: bool = True,
        profile: bool = False,
    ) -> None:
        """Args: signals: entered. alone: whether no other run is shown beside it."""
        self.config, self.folder, self.engine, self.data, self.clock = config, folder, engine, data, clock
        self.processes = engine.processes
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.display = TrainingProgress(config, len(data), self.processes, alone=alone)
        self.signals, self.seeds, self.elsewhere = signals, 1, 0.0
        self.recorder = Recorder(folder, self.processes, config.epochs)
        self.evaluations = RunEvaluations(config, folder, evaluators, self.recorder, self.after_batch)
        self.normalisation: Normalisation = evaluators[0].reading.normalisation  # of the pictures
        self.profile = Profile(folder.path / "profile.json", enabled=profile and self.processes.is_main_process)
        self.best_fid = math.inf
        self.saved_at = time.monotonic()

    def share_with(self, seeds: int) -> None:
        """It is one of so many runs that train side by side, before any of them has begun."""
        self.seeds, self.recorder.share = seeds, 1 / seeds

    def run(self) -> Steps:
        """Train from the newest checkpoint to the last epoch, and evaluate what is to be evaluated then."""
        config, records = self.config, self.processes.on_main(self.folder.read_records)
        progress = load_checkpoint(self.folder.checkpoints, self.engine, records[-1]["epoch"] if records else -1)
        recorded = [record["epoch"] for record in records if record["epoch"] <= progress.epoch]
        if recorded != list(range(progress.epoch + 1)) and (recorded or progress.epoch):
            raise InputError(f"{self.folder.path}/records.jsonl lacks epochs that were trained; remove the folder")
        self.recorder.start(progress, describe_environment(self.engine, self.data, self.seeds))
        with self.tracking(0 if not recorded else progress.epoch + 1):
            try:
                with self.display, explaining_lost_peers(), self.profile:
                    yield from self.train(progress, is_new=not recorded)
                    if config.eval_when != "separately":
                        self.evaluate_kept(progress)
            except Interrupted as interruption:
                self.recorder.interruptions += 1
                self.recorder.write_reason("queued", progress, f"interrupted by {interruption.signal_name}")
                raise
            except Exception as error:
                self.recorder.write_reason("failed", progress, f"{type(error).__name__}: {error}")
                raise
            self.recorder.write_status("done", progress)

    @contextmanager
    def tracking(self, first_epoch: int) -> Iterator[None]:
        """Inside, what the main process records is sent to the run's trackers too."""
        run = TrackedRun(self.folder, self.config.model_dump(mode="json"), first_epoch)
        names = self.config.trackers if self.processes.is_main_process else ()
        with tracking(self.processes.accelerator, names, run) as trackers:
            self.recorder.tell = trackers.send
            yield

    def train(self, progress: Progress, *, is_new: bool) -> Steps:
        """Go on from `progress` to the last epoch."""
        self.best_fid = self.evaluations.read_best_fid(progress.epoch)
        if is_new:
            self.evaluate(0)
            self.recorder.record({"epoch": 0, "images_seen": 0} | self.clock.read())
        while progress.epoch < self.config.epochs:
            record = yield from self.train_epoch(progress)
            epoch = record["epoch"]
            last = epoch == self.config.epochs
            measured: Record = {}
            if self.is_evaluated(epoch):
                try:
                    measured = self.evaluate(epoch)
                except Interrupted:
                    self.save(progress)  # the epoch as trained and not yet recorded
                    raise
            self.recorder.record(record | self.clock.read())
            progress.epoch, progress.step, progress.loss_sums = epoch, 0, {}
            self.display.show_epoch(record | measured)
            fid = measured.get("eval/fid", math.inf)
            best = fid < self.best_fid
            if last or best or epoch % self.config.checkpoint_every == 0:
                self.save(progress, best=best)
            self.best_fid = min(self.best_fid, fid)
            self.recorder.write_status("running", progress)

    def train_epoch(self, progress: Progress) -> Generator[StepRequest, Losses, Record]:
        """One epoch, or what is left of it; `progress` then stands at its last step.

        Returns: the epoch's record with the mean of each loss over its steps.
        """
        config, engine, processes = self.config, self.engine, self.processes
        so_far = [progress.loss_sum(name, processes.rank, processes.num_processes) for name in engine.phases]
        sums = torch.tensor(so_far, dtype=torch.float64, device=processes.device)
        started, steps_before, not_training = time.perf_counter(), progress.step, -self.elsewhere
        epoch = progress.epoch + 1
        profiled = epoch == config.epochs or (self.is_evaluated(epoch) and config.eval_when == "during")
        batches = self.data.epoch(
            config.seed, progress.epoch, config.batch_size, processes.rank, processes.num_processes, progress.step
        )
        for indices in batches:
            self.profile.before_step(progress.step, self.steps_per_epoch, evaluated=profiled)
            x = self.data.batch(indices, processes.device)
            losses = yield StepRequest(x, progress.epoch * self.steps_per_epoch + progress.step)
            sums += torch.stack([*losses.values()])
            progress.step += 1
            if self.display.is_due():
                speed = (progress.step - steps_before) * config.batch_size / (time.perf_counter() - started)
                self.display.show_step(progress, {name: loss.item() for name, loss in losses.items()}, speed)
            stop, save = self.decide(progress.step)
            if stop or save:
                paused = time.perf_counter()
                self.save(replace(progress, loss_sums=self.finite_sums(sums, progress)))
                not_training += time.perf_counter() - paused
            if stop:
                raise self.signals.interruption()
        progress.loss_sums = self.finite_sums(sums, progress)
        seconds = time.perf_counter() - started - not_training - self.elsewhere
        timing: Record = {}
        if trained := progress.step - steps_before:  # by this launch: none where it resumed after the last step
            timing["time/images_per_second"] = trained * config.batch_size / seconds
            timing["time/epoch_seconds"] = seconds / trained * self.steps_per_epoch
        return {
            "epoch": epoch,
            "images_seen": self.count_images(epoch),
            **{
                f"loss/{name}": math.fsum(each) / len(each) / self.steps_per_epoch
                for name, each in progress.loss_sums.items()
            },
            **timing,
        }

    def ends_epoch(self, request: StepRequest) -> bool:
        return (request.step + 1) % self.steps_per_epoch == 0

    def is_evaluated(self, epoch: int) -> bool:
        return epoch == self.config.epochs or epoch % self.config.eval_every == 0

    def count_images(self, epoch: int) -> int:
        """Training images seen by the end of an epoch."""
        return epoch * self.steps_per_epoch * self.config.batch_size

    def finite_sums(self, sums: Tensor, progress: Progress) -> dict[str, list[float]]:
        """Each phase's loss summed over the steps (P,), one sum for each process. Raises: DivergedError if one is not

        finite.
        """
        of_ranks = self.processes.concatenate(sums[None])
        values: dict[str, list[float]] = dict(zip(self.engine.phases, of_ranks.T.tolist(), strict=True))
        for name, each in values.items():
            if not math.isfinite(sum(each)):
                raise DivergedError(
                    f"loss/{name} is {sum(each)} in epoch {progress.epoch + 1}; try a lower learning_rate"
                )
        return values

    def evaluate(self, epoch: int) -> Record:
        """An epoch that is to be evaluated, now or later: its picture, its weights where they are kept, its scores.

        Returns: what was measured of it under the first protocol.
        """
        engine, variant = self.engine, self.engine.variant
        engine.synchronise_buffers()
        with engine.evaluating():
            self.recorder.record_picture(
                epoch, lambda path: save_samples(path, variant, self.normalisation, self.config.seed)
            )
            if self.config.keeps_weights:
                self.recorder.write("weights", lambda: save_weights(self.folder, epoch, variant))
            if self.config.eval_when != "during":
                return {}
            last = epoch == self.config.epochs
            measured = self.evaluations.evaluate(variant, epoch, self.count_images(epoch), last=last)
            self.profile.after_evaluation()
            return measured

    def evaluate_kept(self, progress: Progress) -> None:
        """Evaluate the epochs that are due and whose weights are kept: evaluations that wait for the end, and protocols
        that were asked for after it.
        """
        variant = self.engine.variant
        kept = self.processes.on_main(lambda: find_weights(self.folder))
        for epoch in sorted(kept):
            last = epoch == progress.epoch
            if not (last or self.is_evaluated(epoch)) or not self.evaluations.lacks(variant, epoch, last=last):
                continue
            with self.engine.evaluating():
                with self.processes.raising_together():
                    variant.load_state_dict(read_weights(kept[epoch]), strict=False)
                measured = self.evaluations.evaluate(variant, epoch, self.count_images(epoch), last=last)
            self.profile.after_evaluation()
            self.display.show_epoch({"epoch": epoch} | measured)

    def after_batch(self, done: int, n: int) -> None:
        """Between batches of an evaluation, which can take seconds each."""
        self.display.show_evaluation(done, n)
        if self.processes.agree(bool(self.signals))[0]:
            raise self.signals.interruption()

    def save(self, progress: Progress, *, best: bool = False) -> None:
        with timed("checkpoint"):
            save_checkpoint(self.folder.checkpoints, progress, self.engine, self.config.keep_checkpoints, best=best)
        self.saved_at = time.monotonic()

    def decide(self, step: int) -> tuple[bool, ...]:
        """After a step of an epoch: whether to stop, and whether to save. All processes decide alike."""
        if self.processes.num_processes > 1 and step % AGREE_EVERY and step < self.steps_per_epoch:
            return False, False
        due = time.monotonic() - self.saved_at > self.config.checkpoint_minutes * 60
        return self.processes.agree(bool(self.signals), due and step < self.steps_per_epoch)
