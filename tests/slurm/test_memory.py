"""How many runs share a GPU: what its memory and the cores allow, by a probe."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.errors import InputError
from harness.settings import load_config_file
from slurm.job import Job
from slurm.memory import Demand, choose_at_once, choose_probed, measure_demand
from slurm.process import PlannedRun, plan_run
from tests.harness.test_train import ROOT

SHORT = load_config_file(ROOT / "tests/harness/short.yaml")
DEMAND = Demand(needed=1_200_000_000, free=18_300_000_000)


def plan(tmp_path: Path, n: int, **fields: Any) -> list[PlannedRun]:
    return [plan_run(build_config(SHORT, {"seed": seed, **fields}), tmp_path) for seed in range(n)]


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The runs that are probed; each takes 1.2 GB, and 18.3 are free."""
    probed: list[Any] = []

    def note(fields: Any, environment: Any, python: Any, seeds: int) -> Demand:
        probed.append(fields)
        return replace(DEMAND, needed=seeds * DEMAND.needed)

    monkeypatch.setattr("slurm.memory.measure_demand", note)
    return probed


@pytest.mark.parametrize(
    ("asked", "runs", "gpus", "cores", "chosen", "n_probes"),
    [
        ("auto", 30, 1, 16, 13, 1),  # 0.9 x 18.3 / 1.2
        ("auto", 30, 1, 8, 8, 1),
        ("auto", 30, 4, 16, 4, 1),
        ("auto", 6, 2, 16, 3, 1),
        ("auto", 1, 1, 16, 1, 0),
        ("auto", 30, 8, 8, 1, 0),
        ("auto", 30, 0, 12, 6, 0),
        ("auto", 30, 0, 1, 1, 0),
        ("auto", 0, 1, 16, 1, 0),
        (15, 30, 1, 4, 15, 1),
        (1, 30, 1, 4, 1, 0),
        (6, 30, 0, 12, 6, 0),
        (7, 30, 0, 12, 7, 1),
        (40, 8, 1, 4, 40, 1),
    ],
)
def test_at_once(
    asked: Any, runs: int, gpus: int, cores: int, chosen: int, n_probes: int, tmp_path: Path, probes: list[Any]
) -> None:
    assert choose_at_once(asked, plan(tmp_path, runs), tmp_path, gpus, cores) == chosen
    assert len(probes) == n_probes


def test_more_than_there_is_memory_for_is_refused(tmp_path: Path, probes: list[Any]) -> None:
    said = r"at_once = 40 needs 40 x 1\.2 GB, and 18\.3 GB are free: at most 15 \(--at-once auto\)"
    with pytest.raises(InputError, match=said):
        choose_at_once(40, plan(tmp_path, 50), tmp_path, gpus=1, cores=16)


def test_a_process_of_several_seeds_needs_as_many_times_the_memory(tmp_path: Path, probes: list[Any]) -> None:
    assert choose_at_once("auto", plan(tmp_path, 30), tmp_path, 1, 16, seeds=5) == 2  # 0.9 x 18.3 / (5 x 1.2)


def test_one_run_at_a_time_always_fits() -> None:
    assert Demand(needed=100, free=10).count() == 1


def test_the_most_demanding_run_is_probed(tmp_path: Path) -> None:
    small, batch, conv = plan(tmp_path, 3)
    batch.config["batch_size"] *= 4
    conv.config.update(batch_size=batch.config["batch_size"], architecture="conv")
    assert choose_probed([small, conv, batch]) is conv.config
    assert choose_probed([small, batch]) is batch.config


class TestTheProbe:
    def test_measures_a_process_that_trains(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (run,) = plan(tmp_path, 1)
        demand = measure_demand(run.config, os.environ | {"PYTHONPATH": str(ROOT)})
        assert demand is not None
        assert 2e8 < demand.needed < 5e9
        assert demand.free > 0
        assert "a run takes " in capfd.readouterr().err
        assert list(tmp_path.iterdir()) == [], "it leaves no run"

    def test_that_fails_leaves_it_to_the_run_to_say_why(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        runs = plan(tmp_path, 2, max_images=8, batch_size=16)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        assert choose_at_once("auto", runs, tmp_path, 1, 8, environment) == 1
        said = "a run's memory could not be measured: batch_size = 16 is more than the 8 images"
        assert said in capfd.readouterr().err.replace("\n", " ")

    def test_inside_a_job_is_of_its_gpu_and_its_cores(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        variables = os.environ | {"PYTHONPATH": str(ROOT), "SLURM_CPUS_PER_TASK": "2"}
        job = Job(plan(tmp_path, 4), tmp_path, tmp_path, 1, "auto", 1.0, seeds_at_once=1, python=[sys.executable])
        assert job._choose_at_once(variables) == 2
        job.seeds_at_once = "auto"  # the four are seeds of one setting, and one process trains them
        assert job._choose_at_once(variables) == 1


def test_a_sweep_of_more_than_fit_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The probe is real; the machine it finds has 3 MB."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    real = measure_demand
    monkeypatch.setattr("slurm.memory.measure_demand", lambda *given: Demand(real(*given).needed, 3_000_000))  # pyright: ignore[reportOptionalMemberAccess]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"grid": {"seed": list(range(9))}, "fixed": SHORT}))
    submit = ["sweep", "submit", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), "--executor", "local"]
    assert call(lambda: app([*submit, "--at-once", "8"], result_action="return_value")) == 2
    error = capfd.readouterr().err
    assert "aaebench: at_once = 8 needs 8 x " in error
    assert "0.0 GB are free: at most 1 (--at-once auto)" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", ["0", "-1"])
def test_no_number_of_runs_is_bad_input(tmp_path: Path, given: str, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = ["sweep", "submit", "demo", "--out", str(tmp_path / "runs"), "--at-once", given]
    assert call(lambda: app(tokens, result_action="return_value")) == 2
    assert f"--at-once {given} is no number of runs; 1 or more, or auto" in capfd.readouterr().err
