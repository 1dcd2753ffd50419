"""`aaebench sweep submit`: a sweep file to run folders."""

from pathlib import Path

import pytest

from aaebench import app
from harness.commands import call
from harness.record import find_run_folders
from slurm.sweep import SHIPPED, load_sweep

TINY = "grid: {seed: [0, 1]}\nfixed: {preset: demo, max_images: 64, batch_size: 32, epochs: 1}"


def submit(*arguments: str) -> int:
    return call(lambda: app(["sweep", "submit", *arguments], result_action="return_value"))


def test_runs_a_sweep_and_prints_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert submit(str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), "--at-once", "2") == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "runs")
    folders = list(find_run_folders(tmp_path / "runs"))
    assert [folder.read_status()["state"] for folder in folders] == ["done", "done"]
    assert {folder.read_config()["sweep"] for folder in folders} == {"tiny"}


def test_names_the_runs_that_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("seed: [0, 1]", "learning_rate: [1.0e-3, 1.0e+30]"))
    assert submit(str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), "--at-once", "2") == 1
    error = capfd.readouterr().err
    assert "1 of 2 runs did not finish" in error
    assert "log.txt: aaebench: " in error


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    assert len(load_sweep(path).configs) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such_sweep",), "there is no file no_such_sweep, and unknown shipped sweep"),
        (("demo", "--at-once", "-1"), "--at-once -1"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(*arguments, "--out", str(tmp_path / "runs")) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
