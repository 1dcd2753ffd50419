"""What a run writes in its folder: the main process, for all of them, and never half a file."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from harness.errors import StorageError
from harness.launch.energy import EnergyMeter, find_counter
from harness.launch.processes import Processes
from harness.protocol import Reading
from harness.record import Record, RunFolder, State
from harness.tracking.entries import Entry, describe_line, describe_picture, describe_record
from harness.training.checkpoint import Progress


class Recorder:
    """Every process calls it at the same places, but for `write_reason`, which asks nobody."""

    def __init__(self, folder: RunFolder, processes: Processes, epochs: int) -> None:
        self.folder, self.processes, self.epochs = folder, processes, epochs
        self.share = 1.0  # of what its processes use, what is this run's
        self.interruptions = 0
        self.energy_kwh = math.nan  # of all launches and processes; NaN where one of them could not tell
        self.meter = EnergyMeter(find_counter(processes.device))
        self.first_protocol = ""
        self.tell: Callable[[Entry], None] = lambda entry: None  # the run's trackers, what was written

    def start(self, progress: Progress, environment: dict[str, Any]) -> None:
        """Cut what was recorded back to the checkpoint that is resumed from, and say where and with what this runs."""

        def write() -> None:
            self.first_protocol = self.folder.read_config()["protocol"][0]["name"]
            previous = self.folder.read_status()
            # A status that still says `running` is that of a launch which was killed.
            self.interruptions = previous.get("interruptions", 0) + (previous["state"] == "running")
            if (before := previous.get("energy_kwh")) is not None or "epoch" not in previous:
                self.energy_kwh = before or 0.0
            self.folder.remove_leftovers()
            self.folder.keep_records(through_epoch=progress.epoch)
            for evaluation in self.folder.find_evaluations():
                evaluation.keep(through_epoch=progress.epoch)
            launches = [*self.folder.read_environment().get("launches", []), {**environment, "epoch": progress.epoch}]
            self.folder.write_environment({"run_id": self.folder.path.name, **environment, "launches": launches})
            self._write_status("running", progress)

        self.write("environment.json", write)

    def record(self, record: Record) -> None:
        self.write("records.jsonl", lambda: self.folder.append_record(record))
        self.tell(describe_record(record))

    def record_picture(self, epoch: int, save: Callable[[Path], None]) -> None:
        """The sample grid of an epoch, which `save` writes to a path."""
        name = f"samples/epoch-{epoch:06d}.png"
        self.write(name, lambda: save(self.folder.path / name))
        self.tell(describe_picture(self.folder.path / name))

    def record_evaluation(self, reading: Reading, floor: dict[str, Any], lines: Sequence[Record]) -> None:
        """Lines of one reading; what the first of them is a reading under, with the noise floor, is written as well."""
        folder = self.folder.evaluation(reading.id)

        def write() -> None:
            folder.create({**reading.describe(), "floor": floor})
            folder.append(lines)

        self.write(f"evaluations/{reading.id}", write)
        for line in lines:
            self.tell(describe_line(line, "" if reading.name == self.first_protocol else reading.id))

    def write_status(self, state: State, progress: Progress) -> None:
        if self.processes.device.type == "cuda":
            used = torch.tensor(self.meter.read() * self.share, dtype=torch.float64, device=self.processes.device)
            self.energy_kwh += self.processes.sum(used).item()
        self.write("status.json", lambda: self._write_status(state, progress))

    def write_reason(self, state: State, progress: Progress, reason: str) -> None:
        """Why this run ends early. It asks no other process, as they may be gone."""
        if self.processes.is_main_process:
            with suppress(OSError):  # of a full disk the error itself says more
                self._write_status(state, progress, reason=reason)

    def write(self, name: str, write: Callable[[], None]) -> None:
        """What the main process writes in the run's folder. Raises: StorageError, on every process, where it cannot."""

        def store() -> None:
            try:
                write()
            except OSError as error:
                raise StorageError(f"cannot write {self.folder.path / name}: {error.strerror or error}") from error

        self.processes.on_main(store)

    def _write_status(self, state: State, progress: Progress, **details: object) -> None:
        details |= {
            "epoch": progress.epoch,
            "epochs": max(self.epochs, progress.epoch),
            "interruptions": self.interruptions,
        }
        if self.processes.device.type == "cuda" and math.isfinite(self.energy_kwh):
            details["energy_kwh"] = self.energy_kwh
        self.folder.write_status(state, **details)
