"""Each tracker (TensorBoard, MLflow, Weights & Biases, ...): Accelerate's own, and what that lacks for pictures,
histograms, and runs that go on.

Each works in a thread of its own: whatever it does, fails, hangs or is offline, the run goes on, and its records are
the truth. What trackers keep on this machine lies with the runs: `tensorboard --logdir runs`,
`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`, ...
"""

import ctypes
import hashlib
import os
import shutil
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
from accelerate.tracking import (
    CometMLTracker,
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)
from PIL import Image

from harness.escape import printable
from harness.files import remove_leftovers, replacing_file
from harness.lock import lock_of
from harness.record import RunFolder, State
from harness.terminal import say
from harness.tracking.entries import Entry, Histogram, name_cell
from variants import VARIANTS

PROJECT = "aaebench"
SECONDS_TO_STOP = 1  # for a thread to do so, unless it waits for the system
LONGEST_REASON = 300  # characters of a tracker's error


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it: its name, its group, its configuration.

    Args: config: JSON values. first_epoch: of this epoch and later ones the run has nothing yet: what a tracker has of
        them is of weights that were lost.
    """

    folder: RunFolder
    config: dict[str, Any]
    first_epoch: int

    @property
    def id(self) -> str:
        return self.folder.path.name

    @property
    def out(self) -> Path:
        """The folder that holds the run's, which is where trackers leave what they keep here."""
        return self.folder.path.absolute().parent

    @cached_property
    def cell(self) -> str:
        variant = self.config["variant"]
        return name_cell(self.config, asdict(VARIANTS[variant].Options()) if variant in VARIANTS else {})

    @property
    def name(self) -> str:
        return f"{self.cell} seed {self.config['seed']}"


class Sender(GeneralTracker, ABC):
    """One of Accelerate's trackers behind a queue. None of its methods raises, and only `close` waits."""

    requires_logging_directory = False

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name, self.run = name, run
        super().__init__()
        self.failure: str | None = None
        self.is_known = False  # whether the tracker has had this run before
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._opened: Any = None

    @property
    def tracker(self) -> Any:
        """The tracker's own run, writer or experiment; None until it is open."""
        return self._opened and self._opened.tracker

    def start(self) -> None:
        def open_it() -> None:
            self._opened = self.open()

        self._thread.start()
        self._jobs.put(open_it)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._jobs.put(lambda: self.configure(values))

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Raises nothing; `step` is the epoch."""
        if values and step is not None:
            self._jobs.put(lambda: self.add_numbers(values, step))

    def show(self, entry: Entry) -> None:
        """What is not numbers."""
        self._jobs.put(partial(self._show, entry))

    def catch_up(self, entries: Sequence[Entry]) -> None:
        """What the run had before: all of it, or where the tracker knows the run, what that lacks by the run's word."""

        def send() -> None:
            for entry in entries:
                if not self.is_known or entry.epoch >= self.run.first_epoch:
                    self.add_numbers(entry.numbers, entry.epoch)
                    self._show(entry)

        self._jobs.put(send)

    def close(self, state: State, seconds: float | None) -> None:
        """Wait until all is sent, so many seconds at most. A tracker that is not done then has failed."""
        self._jobs.put(lambda: self.end(state))
        self._jobs.put(None)  # the last
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._fail(f"it has not taken everything within {seconds:.0f} s")
            self._stop()

    def _stop(self) -> None:
        """End the thread where it is: one that still runs while Python shuts down may abort the process."""
        identity = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))
        self._thread.join(SECONDS_TO_STOP)

    # What trackers differ in; it runs in the thread, and may raise anything.

    @abstractmethod
    def open(self) -> GeneralTracker:
        """Begin the tracker's run, or go on in the one that it has; sets `is_known`."""

    def configure(self, values: dict[str, Any]) -> None:
        self._opened.store_init_configuration(values)

    def add_numbers(self, numbers: dict[str, float], epoch: int) -> None:
        if numbers:
            self._opened.log(numbers, step=epoch)

    @abstractmethod
    def add_histogram(self, name: str, histogram: Histogram, epoch: int) -> None: ...

    @abstractmethod
    def add_picture(self, name: str, path: Path, epoch: int) -> None: ...

    def end(self, state: State) -> None:
        self._opened.finish()

    def release(self) -> None:
        """What is to be undone of `open` in the process, however it went."""

    def _show(self, entry: Entry) -> None:
        for name, histogram in entry.histograms.items():
            self.add_histogram(name, histogram, entry.epoch)
        for name, path in entry.pictures.items():
            self.add_picture(name, path, entry.epoch)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self.failure is None:
                self._try(job)
        self._try(self.release)

    def _try(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # some raise what would end a process
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure = printable(" ".join(reason.split()))[:LONGEST_REASON]
        say(
            f"warning: {self.name} does not take all of {self.run.id} ({self.failure}); its records are whole, and "
            f"`aaebench track {printable(str(self.run.folder.path))} --to {self.name}` sends them"
        )


class TensorBoardSender(Sender):
    """Event files in the run's folder, so that they go where it goes."""

    def open(self) -> GeneralTracker:
        folder = self.run.folder.path / "tensorboard"
        if self.run.first_epoch == 0:
            shutil.rmtree(folder, ignore_errors=True)
        self.is_known = any(folder.glob("events.*"))
        purge_step = self.run.first_epoch if self.is_known else 0  # a TensorBoard that is open forgets these, too
        tracker = TensorBoardTracker(folder.name, folder.parent, purge_step=purge_step)
        tracker.start()
        return tracker

    def configure(self, values: dict[str, Any]) -> None:
        """As the run's own hyperparameters; Accelerate would make another run of them, in a folder named by time."""
        from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 (tensorboard is an extra)

        if not self.is_known:
            for summary in hparams(values, {}):
                self.tracker.file_writer.add_summary(summary)

    def add_histogram(self, name: str, histogram: Histogram, epoch: int) -> None:
        counts, edges = np.array(histogram.counts), np.array(histogram.edges)
        middles = (edges[:-1] + edges[1:]) / 2
        self.tracker.add_histogram_raw(
            name,
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=counts @ middles,
            sum_squares=counts @ middles**2,
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
            global_step=epoch,
        )

    def add_picture(self, name: str, path: Path, epoch: int) -> None:
        self._opened.log_images({name: _read_picture(path)[None]}, step=epoch, dataformats="NHWC")


class MLflowSender(Sender):
    """$MLFLOW_TRACKING_URI, or SQLite beside the run folders. A run is found again by its tag.

    It keeps whatever it was ever told of a number, so it is told all that it lacks, and nothing else.
    """

    TAG = "aaebench.run"

    def open(self) -> GeneralTracker:
        import mlflow  # noqa: PLC0415 (an extra)

        artifacts = None
        self.owns_store = "MLFLOW_TRACKING_URI" not in os.environ
        store = self.run.out / "mlflow.db"
        if self.owns_store:
            mlflow.set_tracking_uri(f"sqlite:///{store}")
            artifacts = (self.run.out / "mlflow-artifacts").as_uri()
        self.has: set[tuple[str, int]] = set()
        self.has_settings: set[str] = set()
        self.has_files: set[str] = set()
        with lock_of(self.run.out, ".mlflow.lock"):
            if self.owns_store and not store.exists():
                _make_store(store)
            found = self._find(mlflow)
            run_id = None if found is None else found.info.run_id
            tracker = MLflowTracker(PROJECT, logging_dir=artifacts, run_id=run_id, run_name=self.run.name)
            tracker.start()
            tags = {self.TAG: self.run.id, "cell": self.run.cell, "seed": self.run.config["seed"]}
            mlflow.set_tags(tags | {"sweep": self.run.config["sweep"]})
        if found is not None:
            client = mlflow.MlflowClient()
            for key in found.data.metrics:
                self.has |= {(key, point.step) for point in client.get_metric_history(found.info.run_id, key)}
            self.has_settings = set(found.data.params)
            self.has_files = set(self._list_files(client, found.info.run_id))
        return tracker

    def _find(self, mlflow: Any) -> Any:
        """The run's own, if it was here before."""
        experiment = mlflow.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if experiment is None:
            return None
        wanted = f"tags.`{self.TAG}` = '{self.run.id}'"
        return next(iter(mlflow.MlflowClient().search_runs([experiment.experiment_id], wanted)), None)

    def _list_files(self, client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
        for found in client.list_artifacts(run_id, folder):
            if found.is_dir:
                yield from self._list_files(client, run_id, found.path)
            else:
                yield found.path

    def configure(self, values: dict[str, Any]) -> None:
        """MLflow refuses a second value of a parameter: the first request's stay, as with a larger budget."""
        super().configure({name: value for name, value in values.items() if name not in self.has_settings})

    def add_numbers(self, numbers: dict[str, float], epoch: int) -> None:
        super().add_numbers({key: value for key, value in numbers.items() if (key, epoch) not in self.has}, epoch)

    def add_histogram(self, name: str, histogram: Histogram, epoch: int) -> None:
        file = f"{name}/epoch-{epoch:06d}.png"
        if file not in self.has_files:
            self._opened.log_figure(_draw(name, histogram), file)

    def add_picture(self, name: str, path: Path, epoch: int) -> None:
        if f"{name}/{path.name}" not in self.has_files:
            self._opened.log_artifact(path, name)

    def end(self, state: State) -> None:
        import mlflow  # noqa: PLC0415 (an extra)

        mlflow.end_run({"done": "FINISHED", "failed": "FAILED"}.get(state, "KILLED"))

    def release(self) -> None:
        import mlflow  # noqa: PLC0415 (an extra)

        if self.owns_store:  # MLflow has told the environment, where the next run would find it
            mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


class WandBSender(Sender):
    """Weights & Biases: the run's id is the run's. Epochs are its x axis, as evaluations may come later than others."""

    kind: Any = WandBTracker

    def open(self) -> GeneralTracker:
        project = os.environ.get(f"{self.name.upper()}_PROJECT", PROJECT)
        tracker = self.kind(project, name=self.run.name, group=self.run.cell, **self.list_settings())
        tracker.start()
        return tracker

    def list_settings(self) -> dict[str, Any]:
        """What the tracker's `init` takes beside name and group. Without `resume` a run replaces one of its id."""
        folder = os.environ.get("WANDB_DIR", self.run.out)
        return {"id": self.run.id, "resume": "allow" if self.run.first_epoch else None, "dir": folder}

    def configure(self, values: dict[str, Any]) -> None:
        super().configure(values)
        self.is_known = self.tracker.resumed
        self.tracker.define_metric("*", step_metric="epoch")

    def add_numbers(self, numbers: dict[str, float], epoch: int) -> None:
        self._opened.log({**numbers, "epoch": epoch})

    def add_histogram(self, name: str, histogram: Histogram, epoch: int) -> None:
        counted = (np.array(histogram.counts), np.array(histogram.edges))
        self.add_numbers({name: import_module(self.name).Histogram(np_histogram=counted)}, epoch)

    def add_picture(self, name: str, path: Path, epoch: int) -> None:
        self.add_numbers({name: import_module(self.name).Image(str(path))}, epoch)


class TrackioSender(WandBSender):
    """Trackio, which knows a run by its name."""

    kind = TrackioTracker

    def open(self) -> GeneralTracker:
        earlier = []
        with suppress(ValueError):  # of a project that does not exist yet
            runs = import_module("trackio").Api().runs(os.environ.get("TRACKIO_PROJECT", PROJECT))
            earlier = [run for run in runs if run.name == self.run.name]
        if self.run.first_epoch == 0:
            for run in earlier:
                run.delete()
        self.is_known = bool(earlier)
        return super().open()

    def list_settings(self) -> dict[str, Any]:
        return {"resume": "allow" if self.run.first_epoch else "never"}

    def configure(self, values: dict[str, Any]) -> None:
        self._opened.store_init_configuration(values)

    def add_numbers(self, numbers: dict[str, float], epoch: int) -> None:
        if numbers:
            self._opened.log(numbers, step=epoch)


class CometSender(Sender):
    """Comet, whose experiments have keys of 32 characters."""

    def open(self) -> GeneralTracker:
        comet_ml = import_module("comet_ml")
        tracker = CometMLTracker(
            os.environ.get("COMET_PROJECT_NAME", PROJECT),
            experiment_key=hashlib.sha256(self.run.id.encode()).hexdigest()[:32],
            experiment_config=comet_ml.ExperimentConfig(name=self.run.name, tags=[self.run.cell]),
        )
        tracker.start()
        self.is_known = isinstance(tracker.tracker, comet_ml.ExistingExperiment)
        return tracker

    def add_histogram(self, name: str, histogram: Histogram, epoch: int) -> None:
        self.tracker.log_figure(name, _draw(name, histogram), step=epoch)

    def add_picture(self, name: str, path: Path, epoch: int) -> None:
        self.tracker.log_image(str(path), name, step=epoch)


def _make_store(path: Path) -> None:
    """An empty SQLite store of MLflow, whole or not at all: it can use none whose making a kill has cut short."""
    import mlflow  # noqa: PLC0415 (an extra)

    remove_leftovers(path.parent, f"{path.name}-", older_than=0)  # only the lock's owner writes one
    with TemporaryDirectory() as folder, replacing_file(path) as temporary:
        made = Path(folder) / path.name
        mlflow.MlflowClient(f"sqlite:///{made}").search_experiments()
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)


def _read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _draw(name: str, histogram: Histogram) -> Any:
    """A histogram as a figure, for trackers that have none of their own."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (half a second)

    figure = Figure(figsize=(4.8, 3), layout="constrained")
    figure.add_subplot(xlabel=name, ylabel="count").stairs(histogram.counts, histogram.edges, fill=True)
    return figure


SENDERS: dict[str, type[Sender]] = {
    "tensorboard": TensorBoardSender,
    "mlflow": MLflowSender,
    "wandb": WandBSender,
    "trackio": TrackioSender,
    "comet": CometSender,
}
