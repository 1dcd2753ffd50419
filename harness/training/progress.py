"""What a person sees while a run trains: a bar on a terminal, one line an epoch in a log."""

import time
from types import TracebackType

from harness.config import RunConfig
from harness.launch.processes import Processes
from harness.measures import MEASURES
from harness.record import Record
from harness.terminal import Bar, console, say
from harness.training.checkpoint import Progress as TrainedSoFar

REFRESH_SECONDS = 0.5  # reading a loss waits for the device, so it is read this often and no more


class TrainingProgress:
    """Shows epochs, losses and images/s. Only the main process shows anything.

    Args: alone: whether no other run is shown; if not, lines say whose they are, and there is no bar.
    """

    def __init__(self, config: RunConfig, n_images: int, processes: Processes, *, alone: bool = True) -> None:
        self.config, self.enabled = config, processes.is_main_process
        self.steps_per_epoch = n_images // config.batch_size
        self.bar = Bar("epochs", disable=not (self.enabled and alone and console.is_terminal))
        self.whose = "" if alone else f"seed {config.seed}  "
        self.task = self.bar.add_task(config.run_id, total=config.epochs)
        self.last_shown = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def is_due(self) -> bool:
        return not self.bar.disable and time.monotonic() - self.last_shown > REFRESH_SECONDS

    def show_step(self, progress: TrainedSoFar, losses: dict[str, float], images_per_second: float) -> None:
        self.last_shown = time.monotonic()
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        shown += f"  {images_per_second:.0f} images/s"
        self._show(shown, round(progress.epoch + progress.step / self.steps_per_epoch, 1))

    def show_evaluation(self, done: int, n: int) -> None:
        if self.is_due():
            self.last_shown = time.monotonic()
            self._show(f"scoring {done} of {n} images")

    def show_epoch(self, record: Record) -> None:
        self.bar.update(self.task, completed=record["epoch"])
        if not self.enabled:
            return
        shown = [f"{self.whose}epoch {record['epoch']}/{self.config.epochs}"]
        shown += [f"{key.partition('/')[2]} {record[key]:.4f}" for key in record if key.startswith("loss/")]
        if "time/images_per_second" in record:
            shown += [f"{record['time/images_per_second']:.0f} images/s"]
        for name, digits in (("fid", 2), ("inception_score", 3)):
            if f"eval/{name}" in record:
                title = MEASURES[name].title_by(self.config.protocol[0].extractor)
                shown += [f"{title} {record[f'eval/{name}']:.{digits}f}"]
        if "posterior/sigma_mean" in record:
            shown += [f"sigma {record['posterior/sigma_mean']:.3f}"]
        if "eval/fid" in record or not console.is_terminal:
            say("  ".join(shown))

    def _show(self, what: str, completed: float | None = None) -> None:
        self.bar.update(self.task, description=f"{self.config.run_id}\n{what}", completed=completed)
