"""A run whose disk is full ends with one line that says so, keeps what it had, and goes on when there is space."""

from pathlib import Path

import pytest

from harness.record import RunFolder
from harness.training.checkpoint import read_manifest
from tests.harness.faults import EIGHT_EPOCHS, fill, own_tracebacks, small_disk, train_pair
from tests.harness.test_train import PATIENCE, assert_same_run, only_folder, run, start, wait_for_epoch

OFTEN = ("--set", "checkpoint_every=2")
PLENTY = 100_000  # KiB
TWO_CHECKPOINTS = 30_000  # of 13 MB each; while a third is written, there are three


def assert_it_ended_well(folder: RunFolder, stderr: str) -> None:
    (line,) = (line for line in stderr.splitlines() if "aaebench:" in line)
    assert "No space left on device" in line
    assert "; free some space and run the same command again" in line
    assert own_tracebacks(stderr) == 0
    assert [path.name for path in folder.path.rglob(".*") if path.name != ".lock"] == [], "nothing half-written is left"
    for checkpoint in folder.checkpoints.glob("epoch-*"):
        read_manifest(checkpoint)


@pytest.mark.parametrize("place", ["checkpoints", "samples"])
def test_of_checkpoints_or_pictures(place: str, tmp_path: Path, uninterrupted: RunFolder) -> None:
    folder = RunFolder(tmp_path / uninterrupted.path.name)
    pictures = sum(-(-picture.stat().st_size // 4096) * 4 for picture in sorted(uninterrupted.samples.iterdir())[:3])
    with small_disk(folder.path / place, TWO_CHECKPOINTS if place == "checkpoints" else pictures) as resize:
        process = start(tmp_path, *EIGHT_EPOCHS, *OFTEN)
        stderr = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 1
        assert f"{folder.path / place}/epoch-" in stderr.splitlines()[-1]
        assert_it_ended_well(folder, stderr)
        assert folder.read_status()["reason"].startswith("StorageError: cannot write")
        assert len(list(folder.checkpoints.glob("epoch-*"))) in (1, 2)
        resize(PLENTY)
        assert run(tmp_path, *EIGHT_EPOCHS, *OFTEN) == 0
        assert folder.read_environment()["launches"][-1]["epoch"] >= 2, "it has not begun anew"
        assert_same_run(folder, uninterrupted)


def test_of_records_and_status(tmp_path: Path, uninterrupted: RunFolder) -> None:
    """Not even why the run ended can be written then; it is said."""
    with small_disk(tmp_path, PLENTY) as resize:
        process = start(tmp_path, *EIGHT_EPOCHS, "--set", "checkpoint_every=1")
        wait_for_epoch(tmp_path, 2)
        fill(tmp_path)
        stderr = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 1
        folder = only_folder(tmp_path)
        assert_it_ended_well(folder, stderr)
        resize(2 * PLENTY)
        assert run(tmp_path, *EIGHT_EPOCHS) == 0
        assert folder.read_environment()["launches"][-1]["epoch"] >= 1, "it has not begun anew"
        assert_same_run(folder, uninterrupted)


def test_a_launch_on_a_full_disk_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path, 64):
        fill(tmp_path)
        assert run(tmp_path, *EIGHT_EPOCHS) == 2
        assert "No space left on device; choose another with --out" in capfd.readouterr().err.replace(": '", "; '")
        assert [path.name for path in tmp_path.iterdir()] == ["filler"]


def test_of_two_processes(tmp_path: Path, uninterrupted_pair: RunFolder) -> None:
    """Both end with the main one's reason, not with the loss of each other."""
    folder = RunFolder(tmp_path / uninterrupted_pair.path.name)
    with small_disk(folder.checkpoints, TWO_CHECKPOINTS):
        process = train_pair(tmp_path, *OFTEN)
        stderr = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 1
        assert "has lost another process" not in stderr
        assert_it_ended_well(folder, stderr)
        assert folder.read_status()["reason"].startswith("StorageError: cannot write")
