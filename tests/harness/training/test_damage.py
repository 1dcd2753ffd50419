"""A checkpoint that is not as it was written gives way to the one before, with a warning, and the run ends the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.record import RunFolder
from tests.harness.faults import EIGHT_EPOCHS, kill_all, kill_at_epoch, train_pair, wait_for
from tests.harness.test_train import PATIENCE, assert_same_run, only_folder, run, start

OFTEN = ("--set", "checkpoint_every=2")


def flip_byte(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def flip_in_tensor(checkpoint: Path) -> None:
    flip_byte(checkpoint / "optimizer.safetensors", -1000)


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(checkpoint: Path) -> None:
    (checkpoint / "optimizer.safetensors").unlink()


def truncate_progress(checkpoint: Path) -> None:
    file = checkpoint / "progress.json"
    file.write_bytes(file.read_bytes()[:40])


def miscount(checkpoint: Path) -> None:
    """One bit of one digit, in a file that still reads well: the epoch."""
    file = checkpoint / "progress.json"
    flip_byte(file, file.read_bytes().index(b'"epoch": ') + len('"epoch": '))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with two checkpoints, killed."""
    out = tmp_path_factory.mktemp("killed")
    folder = kill_at_epoch(start(out, *EIGHT_EPOCHS, *OFTEN), out, 5)
    assert len(list(folder.checkpoints.glob("epoch-*"))) >= 2
    return folder


@pytest.mark.parametrize("damage", [flip_in_tensor, truncate, remove, truncate_progress, miscount])
def test_the_one_before_is_used(
    damage: Callable[[Path], None],
    tmp_path: Path,
    killed: RunFolder,
    uninterrupted: RunFolder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(killed.path, tmp_path / killed.path.name, symlinks=True)
    folder = only_folder(tmp_path)
    newest = max(folder.checkpoints.glob("epoch-*"))
    damage(newest)
    assert run(tmp_path, *EIGHT_EPOCHS, *OFTEN) == 0
    assert f"{newest} cannot be used" in caplog.text
    assert "starting anew" not in caplog.text
    assert_same_run(folder, uninterrupted)


def test_with_all_of_them_damaged_a_run_starts_anew_and_can_resume_again(
    tmp_path: Path, killed: RunFolder, uninterrupted: RunFolder
) -> None:
    """What is damaged bears later epochs than the new ones, and must not take their place among those that are kept."""
    shutil.copytree(killed.path, tmp_path / killed.path.name, symlinks=True)
    folder = only_folder(tmp_path)
    for checkpoint in folder.checkpoints.glob("epoch-*"):
        truncate(checkpoint)
    process = start(tmp_path, *EIGHT_EPOCHS, "--set", "checkpoint_every=1", "--set", "keep_checkpoints=1")
    latest = folder.checkpoints / "latest"
    wait_for(lambda: latest.readlink().name == "epoch-000002-step-000000", PATIENCE, "two epochs of a new beginning")
    kill_all(process)
    assert run(tmp_path, *EIGHT_EPOCHS, *OFTEN) == 0
    first, second, third = (launch["epoch"] for launch in folder.read_environment()["launches"])
    assert (first, second) == (0, 0)
    assert third >= 1
    assert_same_run(folder, uninterrupted)


def test_two_processes_choose_the_same_one(tmp_path: Path, uninterrupted_pair: RunFolder) -> None:
    folder = kill_at_epoch(train_pair(tmp_path, *OFTEN), tmp_path, 5)
    newest = max(folder.checkpoints.glob("epoch-*"))
    flip_in_tensor(newest)
    second = train_pair(tmp_path, *OFTEN)
    stderr = second.communicate(timeout=PATIENCE)[1]
    assert second.returncode == 0, stderr
    assert stderr.count(f"{newest} cannot be used") == 1
    assert_same_run(folder, uninterrupted_pair)


def test_without_damage_the_newest_is_used(tmp_path: Path, killed: RunFolder, uninterrupted: RunFolder) -> None:
    shutil.copytree(killed.path, tmp_path / killed.path.name, symlinks=True)
    folder = only_folder(tmp_path)
    newest = max(folder.checkpoints.glob("epoch-*"))
    assert run(tmp_path, *EIGHT_EPOCHS, *OFTEN) == 0
    assert folder.read_environment()["launches"][-1]["epoch"] == int(newest.name[6:12])
    assert_same_run(folder, uninterrupted)
