"""One run folder to rows: what its files say, checked. A folder that cannot be read is a problem with a reason."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import NoneType
from typing import Any

from harness.record import ADDED_FIELDS, Record, RunFolder
from results.read.schema import CONFIGURATION, NUMBERS

FLOOR = "floor."  # groups of scores of real images against real images; their sampler is floor.<name>
LOSSES = ["loss_reconstruction", "loss_discriminator", "loss_adversary"]
RECORD_VERSION = 1  # of the run folder's files, where they state one (`record_version` in environment.json)


@dataclass
class FolderEntry:
    """What a folder holds: `rows`, one per evaluation and sampler (and per noise floor), and what is `common` to them;
    what is wrong; provenance.
    """

    run_id: str
    state: str = "damaged"
    reason: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] | None = None
    common: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """All but the rows."""
        return {name: value for name, value in vars(self).items() if name not in ("rows", "common")}


def read_folder(folder: RunFolder) -> FolderEntry:
    """Read one run. What is damaged is said in `reason`, and raises nothing."""
    try:
        return _read(folder)
    except Exception as error:  # what a damaged folder raises is open-ended, and none may stop the others
        reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
        return FolderEntry(folder.path.name, reason=reason or type(error).__name__)


def _read(folder: RunFolder) -> FolderEntry:
    config, environment, status = folder.read_config(), folder.read_environment(), folder.read_status()
    records = folder.read_records()
    run_id, state = folder.path.name, status["state"]
    if (version := environment.get("record_version", RECORD_VERSION)) != RECORD_VERSION:
        raise ValueError(f"its files have version {version}; this aaebench reads version {RECORD_VERSION}: update it")
    fields = config | {
        "sweep": config["sweep"] or None,
        "options": json.dumps(config["options"], sort_keys=True),
        "training": _describe_training(config),
    }
    configuration = {column.name: fields[column.name] for column in CONFIGURATION}
    for name, value in configuration.items():
        if isinstance(value, (list, dict)):
            raise ValueError(f"config.json: {name} is {value!r}")
    if (original := environment.get("run_id", run_id)) != run_id:
        raise ValueError(f"it holds a copy of the run {original}")
    common = {
        **configuration,
        "run_id": run_id,
        "state": state,
        "num_processes": environment.get("num_processes"),
        "interruptions": status.get("interruptions", 0),
        "git_commit": environment.get("git_commit"),
    }
    rows = [row for record in records for row in _rows(record)]
    if state == "done" and not any(not str(row["sampler"]).startswith(FLOOR) for row in rows):
        raise ValueError("it is done and has no evaluation")
    protocol_id = next((row["protocol_id"] for row in rows if row.get("protocol_id")), None)
    protocol = environment.get("protocol")
    return FolderEntry(
        run_id,
        state,
        "" if state == "done" else _explain(status),
        _provenance(environment, status, records) | {"run_id": run_id, "protocol_id": protocol_id},
        protocol if isinstance(protocol, dict) else None,
        common,
        rows,
    )


def _describe_training(config: dict[str, Any]) -> str:
    """The fields in which a run differs from what runs did before there were these fields, as JSON."""
    own = {name: _normalise(config.get(name, neutral)) for name, neutral in ADDED_FIELDS.items()}
    differing = {name: value for name, value in own.items() if value != _normalise(ADDED_FIELDS[name])}
    return json.dumps(differing, sort_keys=True)


def _normalise(value: Any) -> Any:
    """Equal values in one form, since cells are told apart by their text: 1.0 as 1, a tuple as a list."""
    if isinstance(value, (list, tuple)):
        return [_normalise(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    if "eval" not in (names := " ".join(record)) and FLOOR not in names:
        return
    groups: dict[str, dict[str, Any]] = {}
    for key, value in record.items():
        group, slash, name = key.partition("/")
        if slash:
            groups.setdefault(group, {})[name] = value
    posterior = groups.get("posterior", {})
    sigmas = posterior.get("sigma_mean_per_dim")
    if isinstance(sigmas, list) and sigmas:
        posterior |= {"sigma_mean_smallest_dim": min(sigmas), "sigma_mean_largest_dim": max(sigmas)}
    measured = {
        **posterior,
        **{f"loss_{phase}": loss for phase, loss in groups.get("loss", {}).items()},
        "epoch": record["epoch"],
        "images_seen": record["images_seen"],
        "images_per_second": groups.get("time", {}).get("images_per_second"),
    }
    own = groups.get("eval", {})
    for group, values in groups.items():
        if group == "eval" or group.startswith("eval."):
            yield {"sampler": group.partition(".")[2] or "prior", **values, **measured}
        elif group.startswith(FLOOR):
            shared = {name: own.get(name) for name in ("protocol", "protocol_id", "extractor")}
            yield {**shared, **values, **measured, "sampler": group}


def explain_type(entry: FolderEntry, error: Exception) -> str:
    """Which value is not of its column's type, where Arrow's own words do not say so."""
    for row in entry.rows:
        for name in NUMBERS:
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, (int, float, NoneType)):
                return f"{name} is {value!r} in epoch {row['epoch']}"
    return str(error)


def _provenance(environment: dict[str, Any], status: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    hours = {
        name: sum(record.get(f"time/{key}") or 0 for record in records) / 3600
        for name, key in (("training_hours", "epoch_seconds"), ("evaluation_hours", "evaluation_seconds"))
    }
    launches = environment.get("launches") or [environment]
    processes = environment.get("num_processes") or 1
    versions = environment.get("versions") or {}
    return {
        "state": status["state"],
        "started": _iso(launches[0].get("started")),
        "updated": _iso(status.get("updated")),
        **{name: environment.get(name) for name in ("hostname", "device", "gpu", "git_commit", "data_sha256")},
        **{name: environment.get(name) for name in ("num_processes", "zero_stage")},
        "compiled": {True: "yes", False: "no"}.get(environment.get("compiled", "")),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        **hours,
        "gpu_hours": sum(hours.values()) * processes if environment.get("device") == "cuda" else 0.0,
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _explain(status: dict[str, Any]) -> str:
    progress = f"at epoch {status['epoch']} of {status.get('epochs')}" if "epoch" in status else "not started"
    return f"{status['reason']} ({progress})" if "reason" in status else progress
