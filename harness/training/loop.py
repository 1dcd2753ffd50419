"""One run from its newest checkpoint to its last epoch: training, evaluations, records, checkpoints."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from harness.config import RunConfig
from harness.data.sets import TrainingSet
from harness.errors import DivergedError, InputError, Interrupted, StorageError
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.grids import save_samples
from harness.evaluation.images import GeneratedImages, NumberedImages, Reconstructions
from harness.evaluation.posterior import Posterior, compute_diagnostics, compute_posterior
from harness.evaluation.samplers import CodeDistribution, build_prior, fit_codes
from harness.launch.processes import explaining_lost_peers
from harness.record import Record, RunFolder, State
from harness.seeding import derive_seed
from harness.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.training.engine import Engine
from harness.training.environment import describe_environment
from harness.training.progress import TrainingProgress
from harness.training.signals import NotedSignals
from variants import AutoEncoder

AGREE_EVERY = 16  # steps between two agreements of several processes on whether to stop


class Run:
    """The training of one run."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, engine: Engine, data: TrainingSet, evaluator: Evaluator
    ) -> None:
        self.config, self.folder, self.engine, self.data, self.evaluator = config, folder, engine, data, evaluator
        self.steps_per_epoch = data.steps_per_epoch(config.batch_size)
        self.display = TrainingProgress(config, len(data), engine)
        self.signals = NotedSignals(engine.num_processes)
        self.best_fid = math.inf
        self.interruptions = 0
        self.saved_at = time.monotonic()

    def run(self) -> None:
        """Train from the newest checkpoint to the last epoch."""
        records = self.engine.on_main(self.folder.read_records)
        progress = load_checkpoint(self.folder.checkpoints, self.engine, records[-1]["epoch"] if records else -1)
        records = [record for record in records if record["epoch"] <= progress.epoch]
        recorded = [record["epoch"] for record in records]
        if recorded != list(range(progress.epoch + 1)) and (recorded or progress.epoch):
            raise InputError(f"{self.folder.path}/records.jsonl lacks epochs that were trained; remove the folder")
        self.write("environment.json", lambda: self.start_launch(progress))
        with self.signals:
            try:
                with self.display, explaining_lost_peers():
                    self.train(progress, records)
            except Interrupted as interruption:
                self.interruptions += 1
                self.write_reason("queued", progress, f"interrupted by {interruption.signal_name}")
                raise
            except Exception as error:
                self.write_reason("failed", progress, f"{type(error).__name__}: {error}")
                raise
            self.write("status.json", lambda: self.write_status("done", progress))

    def start_launch(self, progress: Progress) -> None:
        """Cut the records back to the checkpoint, and record where and with what this launch runs."""
        previous = self.folder.read_status()
        # A status that still says `running` is that of a launch which was killed.
        self.interruptions = previous.get("interruptions", 0) + (previous["state"] == "running")
        self.folder.remove_leftovers()
        self.folder.keep_records(through_epoch=progress.epoch)
        environment = describe_environment(self.engine, self.data, self.evaluator.protocol)
        launches = [*self.folder.read_environment().get("launches", []), {**environment, "epoch": progress.epoch}]
        self.folder.write_environment({"run_id": self.config.run_id, **environment, "launches": launches})
        self.write_status("running", progress)

    def train(self, progress: Progress, records: list[Record]) -> None:
        """Go on from `progress`; `records` are those up to it."""
        self.best_fid = min((r["eval/fid"] for r in records[1:] if "eval/fid" in r), default=math.inf)
        if not records:
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
            best = record.get("eval/fid", math.inf) < self.best_fid
            if last or best or epoch % self.config.checkpoint_every == 0:
                self.save(progress, best=best)
            if best:
                self.best_fid = record["eval/fid"]
            self.write("status.json", lambda: self.write_status("running", progress))

    def train_epoch(self, progress: Progress) -> Record:
        """One epoch, or what is left of it; `progress` then stands at its last step.

        Returns: the epoch's record with the mean of each loss over its steps.
        """
        config, engine = self.config, self.engine
        sums = {
            name: torch.tensor(
                progress.loss_sum(name, engine.rank, engine.num_processes), dtype=torch.float64, device=engine.device
            )
            for name in engine.phases
        }
        started, steps_before, saving = time.perf_counter(), progress.step, 0.0
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
            stop, save = self.decide(progress.step)
            if stop or save:
                paused = time.perf_counter()
                self.save(replace(progress, loss_sums=self.finite_sums(sums, progress)))
                saving += time.perf_counter() - paused
            if stop:
                raise self.signals.interruption()
        progress.loss_sums = self.finite_sums(sums, progress)
        seconds = time.perf_counter() - started - saving
        epoch = progress.epoch + 1
        timing: Record = {}
        if trained := progress.step - steps_before:  # by this launch: none where it resumed after the last step
            timing["time/images_per_second"] = trained * config.batch_size / seconds
            timing["time/epoch_seconds"] = seconds / trained * self.steps_per_epoch
        return {
            "epoch": epoch,
            "images_seen": epoch * self.steps_per_epoch * config.batch_size,
            **{
                f"loss/{name}": math.fsum(each) / len(each) / self.steps_per_epoch
                for name, each in progress.loss_sums.items()
            },
            **timing,
        }

    def finite_sums(self, sums: dict[str, Tensor], progress: Progress) -> dict[str, list[float]]:
        """Each loss's sums over the steps, one for each process. Raises: DivergedError if one is not finite."""
        of_ranks = self.engine.concatenate(torch.stack([*sums.values()])[None])
        values: dict[str, list[float]] = dict(zip(sums, of_ranks.T.tolist(), strict=True))
        for name, each in values.items():
            if not math.isfinite(sum(each)):
                raise DivergedError(
                    f"loss/{name} is {sum(each)} in epoch {progress.epoch + 1}; try a lower learning_rate"
                )
        return values

    def after_batch(self, done: int) -> None:
        """Between batches of an evaluation, which can take seconds each."""
        self.display.show_evaluation(done, self.evaluator.protocol.n_fake)
        if self.engine.agree(bool(self.signals))[0]:
            raise self.signals.interruption()

    def evaluate(self, epoch: int) -> Record:
        with self.engine.evaluating():
            return self.evaluate_weights(epoch)

    def evaluate_weights(self, epoch: int) -> Record:
        started = time.perf_counter()
        engine = self.engine
        engine.synchronise_buffers()
        posterior = compute_posterior(engine.variant, self.data, self.evaluator.protocol, self.config.seed, engine)
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
        name, normalisation = f"samples/epoch-{epoch:06d}.png", self.evaluator.protocol.normalisation
        self.write(name, lambda: save_samples(self.folder.path / name, engine.variant, normalisation, self.config.seed))
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

    def save(self, progress: Progress, *, best: bool = False) -> None:
        save_checkpoint(self.folder.checkpoints, progress, self.engine, self.config.keep_checkpoints, best=best)
        self.saved_at = time.monotonic()

    def record(self, record: Record) -> None:
        self.write("records.jsonl", lambda: self.folder.append_record(record))

    def write_status(self, state: State, progress: Progress, **details: object) -> None:
        details |= {"epoch": progress.epoch, "epochs": self.config.epochs, "interruptions": self.interruptions}
        self.folder.write_status(state, **details)

    def write_reason(self, state: State, progress: Progress, reason: str) -> None:
        """Why this run ends early. It asks no other process, as they may be gone."""
        if self.engine.is_main_process:
            with suppress(OSError):  # of a full disk the error itself says more
                self.write_status(state, progress, reason=reason)

    def write(self, name: str, write: Callable[[], None]) -> None:
        """What the main process writes in the run's folder. Raises: StorageError, on every process, where it cannot."""

        def store() -> None:
            try:
                write()
            except OSError as error:
                raise StorageError(f"cannot write {self.folder.path / name}: {error.strerror or error}") from error

        self.engine.on_main(store)

    def decide(self, step: int) -> tuple[bool, ...]:
        """After a step of an epoch: whether to stop, and whether to save. All processes decide alike."""
        if self.engine.num_processes > 1 and step % AGREE_EVERY and step < self.steps_per_epoch:
            return False, False
        due = time.monotonic() - self.saved_at > self.config.checkpoint_minutes * 60
        return self.engine.agree(bool(self.signals), due and step < self.steps_per_epoch)
