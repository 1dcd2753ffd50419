"""One run folder to rows: what its files say, checked. A folder that cannot be read is a problem with a reason."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from harness.escape import printable
from harness.fields import FIELDS
from harness.measures import select
from harness.record import PARTS_OF_A_RUN, PARTS_OF_AN_EVALUATION, RECORD_VERSION, Record, RunFolder
from results.read.schema import CONFIGURATION, IN_TRAINING

MOST_REASON = 1000  # characters
COLUMN_OF = {
    **{measure.key: measure.name for measure in select()},
    **{f"loss/{phase}": f"loss_{phase}" for phase in ("reconstruction", "discriminator", "adversary")},
    "posterior/collapse": "collapse",
    "time/images_per_second": "images_per_second",
}
EVALUATED = ("evaluation", *PARTS_OF_AN_EVALUATION)
FLOOR = "floor."  # of the sampler of scores of real images against real images: floor.<name>


@dataclass
class FolderEntry:
    """What a folder holds: `rows`, one per evaluated epoch, reading, sampler and sampling seed (and per noise floor),
    or an empty one of a run that has no evaluation; what is `common` to them; what is wrong; provenance; the definition
    of each reading by its id.
    """

    run_id: str
    state: str = "damaged"
    reason: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        return FolderEntry(printable(folder.path.name), reason=_describe_error(error))


def _read(folder: RunFolder) -> FolderEntry:
    # Here, as collecting again when nothing has changed reads nothing and is to start at once.
    from harness.schema import check_object, read_epochs, read_measured  # noqa: PLC0415

    _require_name(folder.path.name)
    environment = folder.read_environment()
    if (version := environment.get("record_version", RECORD_VERSION)) != RECORD_VERSION:
        raise ValueError(f"its files have version {version}; this aaebench reads version {RECORD_VERSION}: update it")
    config, status, records = folder.read_config(), folder.read_status(), read_epochs(folder)
    check_object("config", config)
    check_object("environment", environment)
    check_object("status", status)
    run_id, state = folder.path.name, status["state"]
    fields = config | {
        "sweep": config["sweep"] or None,
        "options": json.dumps(config["options"], sort_keys=True),
        "search": json.dumps(config.get("search", {}), sort_keys=True),
        "training": _describe_training(config, environment.get("data") or {}),
    }
    configuration = {column.name: fields[column.name] for column in CONFIGURATION}
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
    epochs = {record["epoch"]: record for record in records}
    protocols: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    seconds: Counter[str] = Counter()
    for evaluation in folder.find_evaluations():
        protocol, lines = evaluation.read_protocol(), read_measured(evaluation)
        check_object("protocol", protocol)
        if protocol["id"] != evaluation.protocol_id:
            raise ValueError(f"evaluations/{evaluation.protocol_id} is the reading {protocol['id']}; give it that name")
        floor = protocol.pop("floor", {})
        protocols[protocol["id"]] = protocol
        for line in lines:
            seconds.update({part: line.get(f"time/{part}_seconds") or 0 for part in EVALUATED})
        rows += _rows(protocol, lines, epochs)
        rows += _floor_rows(protocol, floor)
    scored = any(not row["sampler"].startswith(FLOOR) for row in rows)
    if state == "done" and not scored:
        if config.get("eval_when") != "separately":
            raise ValueError("it is done and has no evaluation")
        state, status = "running", status | {"reason": f"it waits for: aaebench evaluate {folder.path} --epoch all"}
    if not scored:
        rows.append({})
    provenance = _provenance(environment, status, records, seconds)
    return FolderEntry(
        run_id,
        state,
        "" if state == "done" else _explain(status),
        provenance
        | {name: fields[name] for name in ("sweep", "variant", "dataset", "image_size")}
        | {"run_id": run_id, "protocol_ids": " ".join(protocols)},
        protocols,
        common | {"state": state},
        rows,
    )


def _describe_error(error: Exception) -> str:
    return printable(str(error) or type(error).__name__, lines=True)[:MOST_REASON]


def _require_name(name: str) -> None:
    """Raises: ValueError for a folder's name that cannot be a run's id in a table."""
    if printable(name) != name:
        raise ValueError("its name is no UTF-8, or holds control characters; rename it")


def _describe_training(config: dict[str, Any], data: dict[str, Any]) -> str:
    """What of the training is not its default, and has no column of its own, as JSON; and whether a published data set

    was there in part only (`data`), which nobody asked for and which changes everything.
    """
    given = {name: _normalise(config[name]) for name in IN_TRAINING if name in config}
    usual = {name: _normalise(FIELDS[name].default_among(config)) for name in given}
    differing = {name: value for name, value in given.items() if value != usual[name]}
    if data.get("whole") is False:
        differing["data"] = f"{data.get('n_prepared')} of {data.get('n_expected')} images"
    return json.dumps(differing, sort_keys=True)


def _normalise(value: Any) -> Any:
    """Equal values in one form, since cells are told apart by their text: 1.0 as 1, a tuple as a list."""
    if isinstance(value, (list, tuple)):
        return [_normalise(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rows(protocol: dict[str, Any], lines: list[Record], epochs: dict[int, Record]) -> Iterator[dict[str, Any]]:
    """A row for each line of scores, with posterior and mechanisms of its epoch and what the training was there."""
    described = _describe(protocol)
    of_epoch = {epoch: _rename(epochs.get(epoch, {})) for epoch in {line["epoch"] for line in lines}}
    for line in lines:
        if "sampler" not in line:
            measured = _rename(line)
            if sigmas := line.get("posterior/sigma_mean_per_dim"):
                measured |= {"sigma_mean_smallest_dim": min(sigmas), "sigma_mean_largest_dim": max(sigmas)}
            of_epoch[line["epoch"]] |= measured
    for line in lines:
        if "sampler" in line:
            yield {
                **described,
                **of_epoch[line["epoch"]],
                **_rename(line),
                "sampler": line["sampler"],
                "sampling_seed": line.get("sampling_seed") or None,
                "epoch": line["epoch"],
                "images_seen": line["images_seen"],
            }


def _floor_rows(protocol: dict[str, Any], floor: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What real images score against real images: before any training."""
    for name, scores in floor.items():
        yield {**_describe(protocol), **scores, "sampler": f"{FLOOR}{name}", "epoch": 0, "images_seen": 0}


def _describe(protocol: dict[str, Any]) -> dict[str, Any]:
    said = {name: protocol[name] for name in ("extractor", "n_real", "n_fake")}
    return {**said, "protocol": protocol["name"], "protocol_id": protocol["id"]}


def _rename(line: Record) -> dict[str, Any]:
    """A record's numbers under the names of their columns."""
    return {COLUMN_OF[key]: value for key, value in line.items() if key in COLUMN_OF}


def _provenance(
    environment: dict[str, Any], status: dict[str, Any], records: list[Record], evaluated: Mapping[str, float]
) -> dict[str, Any]:
    training_seconds = sum(record.get("time/epoch_seconds") or 0 for record in records)
    hours = {"training_hours": training_seconds / 3600, "evaluation_hours": evaluated["evaluation"] / 3600}
    parts = {part: sum(record.get(f"time/{part}_seconds") or 0 for record in records) for part in PARTS_OF_A_RUN}
    parts |= {part: evaluated[part] for part in PARTS_OF_AN_EVALUATION}
    launches = environment.get("launches") or [environment]
    processes = environment.get("num_processes") or 1
    versions = environment.get("versions") or {}
    return {
        "state": status["state"],
        "started": _iso(launches[0].get("started")),
        "updated": _iso(status.get("updated")),
        **{name: environment.get(name) for name in ("hostname", "device", "gpu", "git_commit", "data_sha256")},
        **{name: environment.get(name) for name in ("num_processes", "zero_stage", "step", "seeds_at_once")},
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        **hours,
        "energy_kwh": status.get("energy_kwh"),
        "gpu_hours": sum(hours.values()) * processes if environment.get("device") == "cuda" else 0.0,
        **{f"{part}_hours": seconds / 3600 for part, seconds in parts.items()},
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _explain(status: dict[str, Any]) -> str:
    progress = f"at epoch {status['epoch']} of {status.get('epochs')}" if "epoch" in status else "not started"
    return f"{printable(status['reason'], lines=True)} ({progress})" if "reason" in status else progress
