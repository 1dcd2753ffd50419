"""What trackers (TensorBoard, MLflow, ...) are told of a run: made of its records, while it trains as afterwards."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.fields import FIELDS, differing
from harness.protocol import read_protocol
from harness.readings import find_evaluation, read_evaluation, read_run
from harness.record import Record, RunFolder
from harness.schema import check_records, is_histogram


@dataclass(frozen=True)
class Histogram:
    """Counts (B,) of values between neighbours of the rising edges (B + 1,)."""

    edges: list[float]
    counts: list[float]


@dataclass(frozen=True)
class Entry:
    """What there is to show of an epoch, or a part of it, by the names under which trackers show it."""

    epoch: int
    numbers: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


def describe_record(record: Record) -> Entry:
    """A line of the run's records: losses and times by their keys, `images_seen`."""
    return Entry(record["epoch"], _numbers(record))


def describe_line(line: Record, reading: str) -> Entry:
    """A line of an evaluation: eval/fid, posterior/sigma_mean, ...; posterior/mu and posterior/sigma as histograms.

    What is not of prior samples, the first sampling seed or the run's first protocol has it behind the name:
    eval/fid/reconstruction, eval/fid/prior-1, eval/fid/clean-0123456789.

    Args: reading: "" for the run's first protocol, the id of another.
    """
    sampler, seed = line.get("sampler", "prior"), line.get("sampling_seed", 0)
    codes = f"{sampler}-{seed}" if seed else "" if sampler == "prior" else sampler
    about = "".join(f"/{part}" for part in (codes, reading) if part)
    measured = {key: value for key, value in line.items() if "/" in key}
    return Entry(
        line["epoch"],
        {f"{key}{about}": value for key, value in _numbers(measured).items()},
        {
            f"{key.removesuffix('_histogram')}{about}": Histogram(value["edges"], value["counts"])
            for key, value in measured.items()
            if is_histogram(value)
        },
    )


def describe_picture(path: Path) -> Entry:
    """A sample grid, samples/epoch-<epoch>.png."""
    return Entry(int(path.stem.removeprefix("epoch-")), pictures={"samples": path})


def read_entries(folder: RunFolder) -> list[Entry]:
    """All that a run folder has to show, in order of epoch. Raises: OSError, ValueError if it is damaged."""
    return sorted(_read_entries(folder), key=lambda entry: entry.epoch)


def _read_entries(folder: RunFolder) -> Iterator[Entry]:
    config, _, _ = read_run(folder)
    records = folder.read_records()
    check_records(records)
    first = find_evaluation(folder, read_protocol(config["protocol"][0]), config["image_size"])
    for evaluation in folder.find_evaluations():
        reading = "" if evaluation == first else evaluation.protocol_id
        _, lines = read_evaluation(evaluation)
        yield from (describe_line(line, reading) for line in lines)
    yield from (describe_picture(path) for path in sorted(folder.samples.glob("epoch-[0-9]*.png")))
    yield from map(describe_record, records)


def name_cell(config: Mapping[str, Any], usual_options: Mapping[str, Any]) -> str:
    """All that is trained but the seed, where it is not the default: `n_iter digits 32px n=3 batch_size=128`.

    Args: config: a whole configuration, as JSON values. usual_options: the variant's defaults.
    """
    options = {name: value for name, value in config["options"].items() if usual_options.get(name) != value}
    training = {
        name: value
        for name, value in differing({**config, "options": {}}).items()
        if FIELDS[name].changes == "training" and name not in ("variant", "dataset", "seed", "image_size")
    }
    settings = [f"{name}={_show(value)}" for name, value in (options | training).items()]
    return " ".join([config["variant"], config["dataset"], f"{config['image_size']}px", *settings])


def describe_settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A configuration as trackers take one, flat: options.<name>, the names of the protocols, lists as text."""
    flat = {name: value for name, value in config.items() if name not in ("options", "protocol")}
    flat |= {f"options.{name}": value for name, value in config["options"].items()}
    flat["protocol"] = ", ".join(protocol["name"] for protocol in config["protocol"])
    return {name: value if isinstance(value, (bool, int, float)) else _show(value) for name, value in flat.items()}


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _numbers(values: Record) -> dict[str, float]:
    """Those that trackers can draw."""
    return {
        key: value
        for key, value in values.items()
        if key != "epoch" and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
