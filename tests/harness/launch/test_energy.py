"""The energy of a run, by a counter that stands in for the driver's; tests/gpu has the driver's own."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from harness.launch.energy import EnergyMeter, find_counter
from harness.record import RunFolder
from harness.training.checkpoint import Progress
from harness.training.recorder import Recorder
from tests.results.runs import CONFIG


def build_recorder(folder: RunFolder, counts: list[int | None], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Of a launch on a GPU whose counter says `counts`, one after another."""
    monkeypatch.setattr("harness.training.recorder.find_counter", lambda _: lambda: counts.pop(0))
    monkeypatch.setattr("torch.tensor", lambda value, **_: SimpleNamespace(item=lambda: value))
    processes = SimpleNamespace(
        device=torch.device("cuda"), is_main_process=True, on_main=lambda store: store(), sum=lambda value: value
    )
    return Recorder(folder, cast(Any, processes), epochs=2)


def test_a_meter_reads_kwh_since_it_read_last() -> None:
    counts = [5_000, 3_600_005_000, 7_200_005_000, None, 7_200_005_000, 7_200_005_000]
    meter = EnergyMeter(lambda: counts.pop(0))
    assert [meter.read(), meter.read()] == [1.0, 1.0]
    assert math.isnan(meter.read())
    assert math.isnan(meter.read())
    assert meter.read() == 0.0


def test_a_cpu_has_no_counter() -> None:
    assert find_counter(torch.device("cpu"))() is None


def test_launches_add_up_and_one_that_cannot_tell_makes_the_run_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kwh = RunFolder(tmp_path), 3_600_000_000
    folder.ask_for(CONFIG)
    first = build_recorder(folder, [0, kwh, 3 * kwh], monkeypatch)
    first.start(Progress(), {})
    first.write_status("running", Progress(epoch=1))
    first.write_status("running", Progress(epoch=2))
    assert folder.read_status()["energy_kwh"] == 3.0
    second = build_recorder(folder, [10 * kwh, 11 * kwh], monkeypatch)
    second.start(Progress(epoch=2), {})
    assert folder.read_status()["energy_kwh"] == 3.0
    second.write_status("done", Progress(epoch=2))
    assert folder.read_status()["energy_kwh"] == 4.0
    third = build_recorder(folder, [20 * kwh, None], monkeypatch)
    third.start(Progress(epoch=2), {})
    third.write_status("done", Progress(epoch=2))
    assert "energy_kwh" not in folder.read_status()
    fourth = build_recorder(folder, [30 * kwh, 31 * kwh], monkeypatch)
    fourth.start(Progress(epoch=2), {})
    fourth.write_status("done", Progress(epoch=2))
    assert "energy_kwh" not in folder.read_status()
