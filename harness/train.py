"""Training: one run from its configuration to its last record. Also `accelerate launch -m harness.train`."""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import Tensor

from harness.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.config import RunConfig
from harness.data import TrainingSet
from harness.engine import Engine
from harness.environment import describe_environment
from harness.errors import DivergedError, InputError, Interrupted
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.images import GeneratedImages, NumberedImages, Reconstructions
from harness.features import load_feature_network
from harness.guard import check_folder, create_folder
from harness.lock import owned
from harness.posterior import Posterior, compute_diagnostics, compute_posterior
from harness.processes import Processes, build_accelerator
from harness.progress import TrainingProgress
from harness.record import Record, RunFolder, State
from harness.samplers import CodeDistribution, build_prior, fit_codes
from harness.samples import save_samples
from harness.seeding import derive_seed
from harness.staging import load_training_set
from variants import AutoEncoder, build

AGREE_EVERY = 16  # steps between two agreements of several processes on whether to stop


def train(config: RunConfig, out: Path) -> RunFolder:
    """Train and evaluate one run in its folder under `out`; a started run is resumed, a finished one left as it is.

    Raises: InputError for anything that the user can mend, before anything is written; DivergedError, with the status
        saying why; Interrupted after a signal, with everything saved.
    """
    folder = RunFolder(out / config.run_id)
    check_folder(folder, config)
    if folder.read_status()["state"] == "done":
        return folder
    engine, data, evaluator = prepare(config)
    check_folder(folder, config)  # again, as preparing may have brought the data
    if engine.is_main_process:
        create_folder(folder, config)
    engine.accelerator.wait_for_everyone()
    with owned(folder, engine.is_main_process):
        Run(config, folder, engine, data, evaluator).run()
    return folder


def prepare(config: RunConfig) -> tuple[Engine, TrainingSet, Evaluator]:
    """Everything that can fail before anything is written. Raises: InputError."""
    accelerator = build_accelerator(config.mixed_precision)
    if config.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size = {config.batch_size} cannot be shared equally by {accelerator.num_processes} processes"
        )
    data = Processes(accelerator).main_first(
        lambda: load_training_set(config.dataset, config.image_size, config.channels, config.max_images)
    )
    if config.batch_size > len(data):
        raise InputError(
            f"batch_size = {config.batch_size} is more than the {len(data)} images of {config.dataset}; "
            f"set batch_size to {len(data)} or less"
        )
    set_seed(derive_seed(config.seed, "weights") % 2**32)
    options = config.build_options()
    variant = build(config.variant, options, data.image_shape, config.latent_dim, config.architecture)
    if variant.needs_feature_network:
        variant.feature_network = load_feature_network(config, accelerator.device)
    engine = Engine(accelerator, variant, config.learning_rate, config.seed)
    data = data.to(engine.device)
    return engine, data, Evaluator(config, data, engine)


class Run:
    """The training of one run."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, engine: Engine, data: TrainingSet, evaluator: Evaluator
    ) -> None:
        self.config, self.folder, self.engine, self.data, self.evaluator = config, folder, engine, data, evaluator
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.display = TrainingProgress(config, len(data), engine)
        self.signal: int | None = None

    def run(self) -> None:
        """Train from the newest checkpoint to the last epoch."""
        progress = load_checkpoint(self.folder.checkpoints, self.engine.variant, self.engine.optimizer)
        previous = self.folder.read_status()
        # A status that still says `running` is that of a launch which was killed.
        self.interruptions = previous.get("interruptions", 0) + (previous["state"] == "running")
        if self.engine.is_main_process:
            self.folder.keep_records(through_epoch=progress.epoch)
            environment = describe_environment(self.engine, self.data, self.evaluator.protocol)
            launches = [*self.folder.read_environment().get("launches", []), {**environment, "epoch": progress.epoch}]
            self.folder.write_environment({"run_id": self.config.run_id, **environment, "launches": launches})
        self.engine.accelerator.wait_for_everyone()  # what follows reads what the main process has just cut back
        self.write_status("running", progress)
        try:
            with self.signals_noted(), self.display:
                self.train(progress)
        except Interrupted as interruption:
            self.interruptions += 1
            self.write_status("queued", progress, reason=f"interrupted by {interruption.signal_name}")
            raise
        except Exception as error:
            self.write_status("failed", progress, reason=f"{type(error).__name__}: {error}")
            raise
        self.write_status("done", progress)

    def train(self, progress: Progress) -> None:
        recorded = [record["epoch"] for record in self.folder.read_records()]
        if recorded != list(range(progress.epoch + 1)) and (recorded or progress.epoch or progress.step):
            raise InputError(f"{self.folder.path}/records.jsonl lacks epochs that were trained; remove the folder")
        if not recorded:
            self.record({"epoch": 0, "images_seen": 0, **self.evaluate(0), **self.evaluator.floor()})
        while progress.epoch < self.config.epochs:
            record = self.train_epoch(progress)
            epoch = record["epoch"]
            last = epoch == self.config.epochs
            if last or epoch % self.config.eval_every == 0:
                try:
                    record |= self.evaluate(epoch)
                except Interrupted:
                    self.save(progress)  # the epoch as trained and not yet recorded
                    raise
            self.record(record)
            progress.epoch, progress.step, progress.loss_sums = epoch, 0, {}
            self.display.show_epoch(record)
            if last or epoch % self.config.checkpoint_every == 0:
                self.save(progress)
            self.write_status("running", progress)

    def train_epoch(self, progress: Progress) -> Record:
        """One epoch, or what is left of it; `progress` then stands at its last step.

        Returns: the epoch's record with the mean of each loss over its steps.
        """
        config, engine = self.config, self.engine
        sums = {
            name: torch.tensor(progress.loss_sums.get(name, 0.0), dtype=torch.float64, device=engine.device)
            for name in engine.phases
        }
        started, steps_before = time.perf_counter(), progress.step
        batches = self.data.epoch(
            config.seed, progress.epoch, config.batch_size, engine.rank, engine.num_processes, start=progress.step
        )
        for indices in batches:
            x = self.data.batch(indices, engine.device)
            losses = engine.step(x, progress.epoch * self.steps_per_epoch + progress.step)
            for name, loss in losses.items():
                sums[name] += loss
            progress.step += 1
            if self.display.is_due():
                speed = (progress.step - steps_before) * config.batch_size / (time.perf_counter() - started)
                self.display.show_step(progress, {name: loss.item() for name, loss in losses.items()}, speed)
            if self.should_stop(progress.step):
                progress.loss_sums = self.finite_sums(sums, progress)
                self.save(progress)
                raise Interrupted(self.signal or signal.SIGTERM)
        progress.loss_sums = self.finite_sums(sums, progress)
        seconds = time.perf_counter() - started
        epoch = progress.epoch + 1
        trained = (progress.step - steps_before) * config.batch_size
        return {
            "epoch": epoch,
            "images_seen": epoch * self.steps_per_epoch * config.batch_size,
            **{f"loss/{name}": total / self.steps_per_epoch for name, total in progress.loss_sums.items()},
            "time/images_per_second": trained / seconds,
            "time/epoch_seconds": seconds,
        }

    def finite_sums(self, sums: dict[str, Tensor], progress: Progress) -> dict[str, float]:
        """The losses' sums over the steps, averaged over the processes. Raises: DivergedError if one is not finite."""
        values: dict[str, float] = {
            name: self.engine.sum(total).item() / self.engine.num_processes for name, total in sums.items()
        }
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(f"loss/{name} is {value} in epoch {progress.epoch + 1}; try a lower learning_rate")
        return values

    def after_batch(self, done: int) -> None:
        """Between batches of an evaluation, which can take seconds each."""
        self.display.show_evaluation(done, self.evaluator.protocol.n_fake)
        if self.engine.agree(self.signal is not None):
            raise Interrupted(self.signal or signal.SIGTERM)

    def evaluate(self, epoch: int) -> Record:
        started = time.perf_counter()
        engine = self.engine
        engine.synchronise_buffers()
        posterior = compute_posterior(engine, self.data, self.evaluator.protocol)
        values: Record = {}
        for sampler, images in self.build_images(posterior, last=epoch == self.config.epochs):
            values |= self.evaluator.evaluate(sampler, images, self.after_batch)
        for number in range(1, self.config.sampling_seeds):
            images = self.build_samples(
                build_prior(self.config.latent_dim), derive_seed(self.config.seed, "samples", number)
            )
            values |= self.evaluator.evaluate("prior", images, self.after_batch, sampling_seed=number)
        if posterior is None:
            values["posterior/collapse"] = "no posterior"
        else:
            values |= compute_diagnostics(posterior.mu, posterior.sigma)
            values["posterior/reconstruction_l1"] = posterior.reconstruction_l1.mean().item()
        if engine.is_main_process:
            path = self.folder.samples / f"epoch-{epoch:06d}.png"
            save_samples(path, engine.variant, self.evaluator.protocol.normalisation, self.config.seed)
        return {**values, "time/evaluation_seconds": time.perf_counter() - started}

    def build_images(self, posterior: Posterior | None, last: bool) -> Iterator[tuple[str, NumberedImages]]:
        """What is scored: each sampler's images, and at the end, once, reconstructions."""
        variant, protocol, seed = self.engine.variant, self.evaluator.protocol, self.config.seed
        for sampler in self.config.samplers:
            codes = build_prior(self.config.latent_dim)
            if sampler != "prior" and posterior is not None:
                codes = fit_codes(sampler, posterior.mu, posterior.sigma, seed)
            yield sampler, self.build_samples(codes, seed)
        if last and isinstance(variant, AutoEncoder):
            yield "reconstruction", Reconstructions(variant, self.data, protocol, seed, self.engine.device)

    def build_samples(self, codes: CodeDistribution, seed: int) -> NumberedImages:
        return GeneratedImages(self.engine.variant, codes, self.evaluator.protocol, seed, self.engine.device)

    def save(self, progress: Progress) -> None:
        self.engine.synchronise_buffers()
        if self.engine.is_main_process:
            save_checkpoint(self.folder.checkpoints, progress, self.engine.variant, self.engine.optimizer)

    def record(self, record: Record) -> None:
        if self.engine.is_main_process:
            self.folder.append_record(record)

    def write_status(self, state: State, progress: Progress, **details: object) -> None:
        if self.engine.is_main_process:
            details |= {"epoch": progress.epoch, "epochs": self.config.epochs, "interruptions": self.interruptions}
            self.folder.write_status(state, **details)

    def should_stop(self, step: int) -> bool:
        if self.engine.num_processes > 1 and step % AGREE_EVERY and step < self.steps_per_epoch:
            return False
        return self.engine.agree(self.signal is not None)

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGUSR2 are noted, to be acted on at a step's end.

        A second SIGINT or SIGTERM acts at once. SLURM's warning, SIGUSR2, comes from several sides and never does.
        """

        def note(number: int, _: object) -> None:
            self.signal = number
            if number != signal.SIGUSR2:
                signal.signal(number, signal.SIG_DFL)

        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


if __name__ == "__main__":
    from harness.commands import main

    sys.exit(main())
