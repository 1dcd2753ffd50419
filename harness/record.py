"""The run folder: the only truth about a run. Standard library only, so that readers start at once.

config.json        the configuration; its hash is the folder's name
environment.json   where and with what it ran
status.json        state (queued, running, done, failed), why, how far
records.jsonl      one line an epoch: loss/<phase>, time/*, and eval/* and posterior/* where evaluated
samples/           one PNG grid an evaluation, from the same codes each time
checkpoints/       the newest states to resume from, and the best; `latest` and `best` link to them
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from harness.files import remove_leftovers, write_json, write_text

State = Literal["queued", "running", "done", "failed"]
Record = dict[str, Any]

# Fields of config.json that came when there were runs already, and what those runs did: at these values a field is part
# neither of a run's id nor of what tells cells apart.
ADDED_FIELDS: dict[str, Any] = {
    "optimizer": "adam",
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
    "gradient_clipping": None,
    "gradient_accumulation": 1,
    "ema_decay": None,
    "sync_batchnorm": False,
}


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

    def create(self, config: dict[str, Any]) -> None:
        """Make the folder with its configuration, unless it is there. Raises: OSError if it cannot be written."""
        for folder in (self.samples, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.config_file.exists():
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

    def append_record(self, record: Record) -> None:
        """Append one line and put it on the disk. Raises: ValueError for a number that is not finite."""
        with (self.path / "records.jsonl").open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_records(self) -> list[Record]:
        """All whole records. A last line that a kill cut short is left out.

        Raises: ValueError if another line is damaged.
        """
        file = self.path / "records.jsonl"
        return list(parse_records(file.read_text().splitlines(keepends=True))) if file.exists() else []

    def keep_records(self, through_epoch: int) -> None:
        """Drop the records after an epoch: what a run wrote after the checkpoint that it resumes from."""
        kept = [json.dumps(record) + "\n" for record in self.read_records() if record["epoch"] <= through_epoch]
        write_text(self.path / "records.jsonl", "".join(kept))

    def remove_leftovers(self) -> None:
        """What a kill left of files that only the owner of the folder writes; the status others write as well."""
        for name in ("config.json", "environment.json", "records.jsonl"):
            remove_leftovers(self.path, f"{name}-", older_than=0)
        remove_leftovers(self.samples, older_than=0)


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
            record = json.loads(line)
            if not isinstance(record, dict) or not all(
                isinstance(record.get(k), int) for k in ("epoch", "images_seen")
            ):
                raise ValueError("it is no record with epoch and images_seen")
        except ValueError as error:
            if not line.endswith("\n"):
                return
            raise ValueError(f"records.jsonl, line {number}: {error}") from error
        yield record


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no JSON object")
    return content
