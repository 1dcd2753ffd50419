"""`aaebench sweep submit`: a sweep file to run folders."""

import json
import sys
from pathlib import Path

import pytest

import harness
from aaebench import app
from harness.commands import call
from harness.record import find_run_folders
from slurm.sweep import SHIPPED, load_sweep

TINY = "grid: {seed: [0, 1]}\nfixed: {preset: demo, max_images: 64, batch_size: 32, epochs: 1}"


def command(*arguments: str) -> int:
    return call(lambda: app(["sweep", *arguments], result_action="return_value"))


def submit(*arguments: str) -> int:
    return command("submit", *arguments)


def test_runs_a_sweep_and_prints_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert submit(str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), "--at-once", "2") == 0
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "runs")
    folders = list(find_run_folders(tmp_path / "runs"))
    assert [folder.read_status()["state"] for folder in folders] == ["done", "done"]
    assert {folder.read_config()["sweep"] for folder in folders} == {"tiny"}


def test_a_sweep_is_planned_probed_run_here_and_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, out = str(tmp_path / "tiny.yaml"), str(tmp_path / "runs")
    (tmp_path / "tiny.yaml").write_text(TINY.replace("[0, 1]", "[0]"))
    assert command("plan", file, "--out", out, "--probe", "--executor", "local") == 0
    assert "GPU-hours (probe)" in capfd.readouterr().out
    assert submit(file, "--out", out, "--executor", "local") == 0
    (folder,) = find_run_folders(tmp_path / "runs")
    (code,) = (tmp_path / "runs/sweeps").glob("*/*/code")
    assert (code / "harness/train.py").read_text() == (Path(harness.__file__).parent / "train.py").read_text()
    assert folder.read_environment()["git_commit"] == ((code / "GIT_COMMIT").read_text() or None)
    capfd.readouterr()
    assert command("status", file, "--out", out, "--json") == 0
    (status,) = json.loads(capfd.readouterr().out)
    assert (status["state"], status["epoch"], status["run_id"]) == ("done", 1, folder.path.name)
    assert command("status", file, "--out", out) == 0
    assert "digits 32 px" in capfd.readouterr().out
    assert command("logs", "seed0", "--out", out, "--lines", "2") == 0
    assert capfd.readouterr().out.startswith(f"==> {folder.path}/log.txt <==\nepoch 1/1 ")
    assert command("logs", "sed0", "--out", out) == 2
    assert command("cancel", file, "--out", out) == 0
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert submit(file, "--out", out, "--executor", "local") == 2
    assert "grid.seed was [0], is [0, 1]. 1 runs are new and would be run, 1 stay" in capfd.readouterr().err


def test_slurm_where_there_is_none_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert submit("demo", "--out", str(tmp_path / "runs"), "--executor", "slurm") == 2
    assert "there is no SLURM on this machine" in capfd.readouterr().err
    assert command("cancel", "demo", "--out", str(tmp_path / "runs")) == 2
    assert "was never submitted" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_names_the_runs_that_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = TINY.replace("seed: [0, 1]", "learning_rate: [1.0e-3, 10]").replace(
        "epochs: 1", "epochs: 4, variant: kld_loss"
    )
    (tmp_path / "tiny.yaml").write_text(sweep)
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
        (("demo", "--seeds-at-once", "0"), "--seeds-at-once 0 is no number of runs; 1 or more, or auto"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(*arguments, "--out", str(tmp_path / "runs")) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
