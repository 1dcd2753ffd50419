"""The run folder: the only truth about a run. Standard library only, so that readers start at once.

config.json        the configuration; a hash of what changes the trained weights is in the folder's name
environment.json   where and with what it ran
status.json        state (queued, running, done, failed), why, how far
records.jsonl      one line an epoch: loss/<phase>, time/*
evaluations/       one folder a reading, named by its protocol id: what was measured of the trained weights
samples/           one PNG grid an evaluation, from the same codes each time
checkpoints/       the newest states to resume from, and the best; `latest` and `best` link to them
weights/           encoder and decoder of the evaluated epochs, where the run keeps them
tensorboard/       event files, where the run has that tracker
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from harness.files import appending, make_folder, remove_leftovers, write_json, write_text

State = Literal["queued", "running", "done", "failed"]
Record = dict[str, Any]
LASTING = ("epoch", "epochs", "interruptions", "energy_kwh")  # what a status hands on to the next one
RECORD_VERSION = 2  # of the files of a run folder, in environment.json: raised when readers would misunderstand them


@dataclass(frozen=True)
class RunFolder:
    """Paths, readers and writers of one run's folder. Only the main process of the run writes."""

    path: Path

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    def evaluation(self, protocol_id: str) -> "EvaluationFolder":
        """One of the run's evaluations, whether it has been begun or not."""
        return EvaluationFolder(self.evaluations / protocol_id)

    def find_evaluations(self) -> list["EvaluationFolder"]:
        """All that were begun, in order of protocol id."""
        return [EvaluationFolder(file.parent) for file in sorted(self.evaluations.glob("*/protocol.json"))]

    def ask_for(self, config: dict[str, Any]) -> None:
        """Make the folder with its configuration. Of one that is there, which trains the same, the newest request

        counts, but for a smaller budget, other protocols, which are added, the sweep, which stays the first, and the
        search that drew it, which a request from elsewhere does not undo.
        Raises: OSError if it cannot be written, ValueError if what is there is damaged.
        """
        for folder in (self.samples, self.checkpoints):
            make_folder(folder)
        stored = self.read_config() if self.config_file.exists() else None
        if stored is not None:
            protocols = {protocol["name"]: protocol for protocol in (*stored["protocol"], *config["protocol"])}
            kept = {"epochs": max(stored["epochs"], config["epochs"]), "sweep": stored["sweep"]}
            kept["search"] = config.get("search") or stored.get("search", {})
            config = config | kept | {"protocol": list(protocols.values())}
        if config != stored:
            write_json(self.config_file, config)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    def read_config(self) -> dict[str, Any]:
        """Raises: OSError if there is none, ValueError if it is damaged."""
        return _read_object(self.config_file)

    def write_environment(self, environment: dict[str, Any]) -> None:
        write_json(self.path / "environment.json", environment)

    def read_environment(self) -> dict[str, Any]:
        """Raises: ValueError if it is damaged. A run that never started has none: {}."""
        file = self.path / "environment.json"
        return _read_object(file) if file.exists() else {}

    def write_status(self, state: State, **details: Any) -> None:
        """Replace the status; `details` are reason, epoch, interruptions and whatever else is worth knowing."""
        write_json(self.path / "status.json", {"state": state, **details, "updated": time.time()})

    def read_status(self) -> dict[str, Any]:
        """Raises: ValueError if it is damaged. A run that never started is queued."""
        file = self.path / "status.json"
        status = _read_object(file) if file.exists() else {"state": "queued"}
        if status.get("state") not in get_args(State):
            raise ValueError(f"status.json has the state {status.get('state')!r}")
        return status

    def is_done(self, epochs: int) -> bool:
        """Whether the run is finished, with so many epochs or more. Raises: ValueError if its status is damaged."""
        status = self.read_status()
        return status["state"] == "done" and status.get("epoch", 0) >= epochs

    def append_record(self, record: Record) -> None:
        """Append one line and put it on the disk. Raises: ValueError for a number that is not finite."""
        with appending(self.path / "records.jsonl") as file:
            file.write((json.dumps(record, allow_nan=False) + "\n").encode())

    def read_records(self) -> list[Record]:
        """All whole records. A last line that a kill cut short is left out.

        Raises: ValueError if another line is damaged.
        """
        file = self.path / "records.jsonl"
        return list(parse_records(_read_text(file).splitlines(keepends=True))) if file.exists() else []

    def keep_records(self, through_epoch: int) -> None:
        """Drop the records after an epoch: what a run wrote after the checkpoint that it resumes from."""
        kept = [json.dumps(record) + "\n" for record in self.read_records() if record["epoch"] <= through_epoch]
        write_text(self.path / "records.jsonl", "".join(kept))

    def remove_leftovers(self) -> None:
        """What a kill left of files that only the owner of the folder writes; the status others write as well."""
        for name in ("config.json", "environment.json", "records.jsonl"):
            remove_leftovers(self.path, f"{name}-", older_than=0)
        for folder in (self.samples, self.weights):
            remove_leftovers(folder, older_than=0)


@dataclass(frozen=True)
class EvaluationFolder:
    """What was measured of a run's weights under one protocol.

    protocol.json   every field of the reading, and `floor`: what real images score against real images
    records.jsonl   lines of three kinds: the scores of one sampler's images (`sampler`, `sampling_seed`, eval/*), what
                    became of the posterior (posterior/*), and what the mechanisms do (`part`: mechanisms, mechanism/*);
                    each with the epoch whose weights they are of

    Several processes may append at once. Equal readings of equal weights have equal scores, so where two lines say the
    same thing, the first one counts; one that a kill cut short counts as not written.
    """

    path: Path

    @property
    def protocol_id(self) -> str:
        return self.path.name

    def create(self, protocol: dict[str, Any]) -> None:
        """Make the folder with what it is a reading under, unless it is there. Raises: OSError."""
        make_folder(self.path)
        if not (self.path / "protocol.json").exists():
            write_json(self.path / "protocol.json", protocol)

    def read_protocol(self) -> dict[str, Any]:
        """Raises: OSError if there is none, ValueError if it is damaged."""
        return _read_object(self.path / "protocol.json")

    def append(self, lines: Iterable[Record]) -> None:
        """Append whole lines and put them on the disk. Raises: ValueError for a number that is not finite."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        with appending(self.path / "records.jsonl") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
            cut_short = end > 0 and file.read(1) != b"\n"
            file.write((b"\n" if cut_short else b"") + text.encode())  # one write: appends of others do not mix in

    def keep(self, through_epoch: int) -> None:
        """Drop the lines after an epoch: a run that resumes before it trains other weights perhaps."""
        kept = [json.dumps(line) + "\n" for line in self.read() if line["epoch"] <= through_epoch]
        if (self.path / "records.jsonl").exists():
            write_text(self.path / "records.jsonl", "".join(kept))

    def read(self, epoch: int | None = None) -> list[Record]:
        """The lines that count, of all epochs or one, in the order in which they were written."""
        file = self.path / "records.jsonl"
        lines = _read_bytes(file).splitlines() if file.exists() else []
        if epoch is not None:  # most of a long run's lines need no parsing then
            names_it = re.compile(rb'"epoch":\s*%d\b' % epoch)
            lines = [line for line in lines if names_it.search(line)]
        found: dict[Key, Record] = {}
        for line in lines:
            try:
                record = _parse(line)
                if epoch in (None, record["epoch"]):
                    found.setdefault(key_of(record), record)
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a kill, or damaged
        return list(found.values())


# Of `time/<part>_seconds`: in records, and in the lines of an evaluation.
PARTS_OF_A_RUN = ("startup", "data", "checkpoint")
PARTS_OF_AN_EVALUATION = ("posterior", "codes", "decode", "resize", "forward", "statistics", "scores")
Key = tuple[int, str, int]


def key_of(line: Record) -> Key:
    """What a line of an evaluation is about: epoch, sampler (or `part`), sampling seed; "" and 0 for the posterior's.

    Raises: KeyError or TypeError if it does not say.
    """
    return int(line["epoch"]), line.get("sampler", line.get("part", "")), int(line.get("sampling_seed", 0))


def find_run_folders(root: Path) -> Iterator[RunFolder]:
    """Every run folder under `root`, at any depth, in order of path: whatever holds a run's file counts.

    An export, which keeps its run's configuration beside its weights, is none.
    """
    files = ("config.json", "status.json", "records.jsonl")
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        if "model.safetensors" not in names and any(name in names for name in files):
            subfolders.clear()
            yield RunFolder(Path(folder))


def parse_records(lines: Iterable[str]) -> Iterator[Record]:
    """Whole records. A last line that a kill cut short is left out. Raises: ValueError if another line is damaged."""
    for number, line in enumerate(lines, start=1):
        try:
            record = _parse(line)
            if not isinstance(record, dict) or not all(
                isinstance(record.get(k), int) for k in ("epoch", "images_seen")
            ):
                raise ValueError("it is no record with epoch and images_seen")
        except ValueError as error:
            if not line.endswith("\n"):
                return
            raise ValueError(f"records.jsonl, line {number}: {error}") from error
        yield record


def _read_bytes(file: Path) -> bytes:
    """Raises: OSError; ValueError for a pipe or a device, which may never end."""
    if file.exists() and not file.is_file():
        raise ValueError(f"{file.name} is no file")
    return file.read_bytes()


def _read_text(file: Path) -> str:
    """Raises: as `_read_bytes`; ValueError for text that is not UTF-8."""
    try:
        return _read_bytes(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: {error}") from error


def _parse(text: str | bytes) -> Any:
    """Raises: ValueError for what is no JSON, or nested so deeply that nobody can have meant it."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _read_object(file: Path) -> dict[str, Any]:
    text = _read_text(file)
    try:
        content = _parse(text)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content
