"""A run that is stopped in any way ends as one that was not; bad input is said before anything is written."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors.torch import load_file

from aaebench import app
from harness.commands import call
from harness.record import RunFolder, find_run_folders

SHORT = ("--config", "tests/harness/short.yaml")
ROOT = Path(__file__).parent.parent.parent


def run(out: Path, *arguments: str) -> int:
    """`aaebench run` in this process. Returns: the exit status."""
    return call(lambda: app(["run", *arguments, "--out", str(out)], result_action="return_value"))


def only_folder(out: Path) -> RunFolder:
    (folder,) = find_run_folders(out)
    return folder


def start(out: Path, *arguments: str) -> Any:
    """A training process of its own. It has this one's threads: arithmetic depends on their number."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.train", *arguments, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def wait_for_epoch(out: Path, epoch: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        folders = list(find_run_folders(out)) if out.exists() else []
        if folders and len(folders[0].read_records()) > epoch:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} was not reached")


def untimed(folder: RunFolder) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")} for record in folder.read_records()
    ]


def final_weights(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint's tensors, by file and name."""
    files = sorted((folder.checkpoints / "latest").resolve().glob("*.safetensors"))
    return {f"{file.name}/{key}": tensor for file in files for key, tensor in load_file(file).items()}


def assert_same_run(first: RunFolder, second: RunFolder) -> None:
    assert untimed(first) == untimed(second)
    ours, theirs = final_weights(first), final_weights(second)
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert run(out, *SHORT, "--epochs", "8", "--seed", "0") == 0
    return only_folder(out)


class TestARun:
    def test_its_records(self, uninterrupted: RunFolder) -> None:
        records = uninterrupted.read_records()
        assert [record["epoch"] for record in records] == list(range(9))
        assert [record["epoch"] for record in records if "eval/fid" in record] == [0, 2, 4, 6, 8]
        assert records[3]["images_seen"] == 3 * 320
        last = records[-1]
        for key in ("loss/reconstruction", "loss/discriminator", "loss/adversary", "time/images_per_second"):
            assert last[key] > 0
        assert last["eval/fid"] < records[0]["eval/fid"] / 2
        assert last["eval/protocol_id"].startswith("paper-")
        assert len(last["posterior/sigma_mean_per_dim"]) == 10

    def test_its_other_files(self, uninterrupted: RunFolder) -> None:
        assert uninterrupted.read_status()["state"] == "done"
        environment = uninterrupted.read_environment()
        assert environment["num_processes"] == 1
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", environment["git_commit"])
        assert sorted(file.name for file in uninterrupted.samples.iterdir()) == [
            f"epoch-{epoch:06d}.png" for epoch in (0, 2, 4, 6, 8)
        ]
        assert len(list(uninterrupted.checkpoints.glob("epoch-*"))) <= 2

    def test_the_folders_path_is_the_last_line_of_stdout(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        assert capfd.readouterr().out.splitlines()[-1] == str(only_folder(tmp_path).path)

    def test_a_finished_run_is_left_as_it_is(self, tmp_path: Path) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before

    def test_the_seed_decides_everything(self, tmp_path: Path, uninterrupted: RunFolder) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "8") == 0
        assert_same_run(only_folder(tmp_path), uninterrupted)
        assert run(tmp_path / "other", *SHORT, "--epochs", "8", "--seed", "1") == 0
        assert untimed(only_folder(tmp_path / "other")) != untimed(uninterrupted)


class TestFaults:
    @pytest.mark.parametrize("epoch", [1, 5])
    def test_a_killed_run_resumes_bit_identically(self, tmp_path: Path, uninterrupted: RunFolder, epoch: int) -> None:
        arguments = (*SHORT, "--epochs", "8", "--set", "checkpoint_every=2")
        process = start(tmp_path, *arguments)
        wait_for_epoch(tmp_path, epoch)
        process.kill()
        process.communicate()
        folder = only_folder(tmp_path)
        assert folder.read_status()["state"] == "running"
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, uninterrupted)
        assert folder.read_status()["interruptions"] == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_saves_at_the_next_step(
        self, tmp_path: Path, uninterrupted: RunFolder, number: signal.Signals
    ) -> None:
        arguments = (*SHORT, "--epochs", "8", "--set", "checkpoint_every=100")
        process = start(tmp_path, *arguments)
        wait_for_epoch(tmp_path, 3)
        process.send_signal(number)
        message = process.communicate()[1]
        assert process.returncode == 128 + number
        assert "run the same command again to resume" in message
        folder = only_folder(tmp_path)
        status = folder.read_status()
        assert (status["state"], status["interruptions"]) == ("queued", 1)
        assert number.name in status["reason"]
        assert list(folder.checkpoints.glob("epoch-*"))
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, uninterrupted)

    def test_a_signal_during_an_evaluation_does_not_wait_for_its_end(self, tmp_path: Path) -> None:
        arguments = (*SHORT, "--epochs", "1", "--set", "n_fake=40000")
        process = start(tmp_path / "stopped", *arguments)
        wait_for_epoch(tmp_path / "stopped", 0)
        folder = only_folder(tmp_path / "stopped")
        time.sleep(1.5)  # an epoch of 20 steps is over by now, an evaluation of 40,000 images is not
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert folder.read_status()["state"] == "queued"
        assert [record["epoch"] for record in folder.read_records()] == [0]
        assert [path.name for path in folder.checkpoints.glob("epoch-*")] == ["epoch-000000-step-000020"]
        for out in ("stopped", "whole"):
            assert run(tmp_path / out, *arguments) == 0
        assert_same_run(folder, only_folder(tmp_path / "whole"))

    def test_a_damaged_checkpoint_gives_way_to_the_one_before(
        self, tmp_path: Path, uninterrupted: RunFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        arguments = (*SHORT, "--epochs", "8", "--set", "checkpoint_every=2")
        process = start(tmp_path, *arguments)
        wait_for_epoch(tmp_path, 5)
        process.kill()
        process.communicate()
        folder = only_folder(tmp_path)
        newest = max(folder.checkpoints.glob("epoch-*"))
        content = (newest / "model.safetensors").read_bytes()
        (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
        with (folder.path / "records.jsonl").open("a") as file:
            file.write('{"epoch": 6, "loss/rec')
        assert run(tmp_path, *arguments) == 0
        assert "trying the one before it" in caplog.text
        assert_same_run(folder, uninterrupted)

    def test_divergence_stops_the_run_with_its_reason(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "3", "--learning-rate", "1e30") == 1
        status = only_folder(tmp_path).read_status()
        assert status["state"] == "failed"
        assert re.search(r"DivergedError: (loss|eval)/\w+ is (nan|inf)|not finite", status["reason"])
        assert re.search("aaebench: .*(nan|inf|not finite)", capfd.readouterr().err)

    def test_a_second_launch_refuses(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        process = start(tmp_path, *SHORT, "--epochs", "500")
        wait_for_epoch(tmp_path, 0)
        assert run(tmp_path, *SHORT, "--epochs", "500") == 2
        assert "is being trained by another process" in capfd.readouterr().err
        process.terminate()
        process.communicate()
        assert only_folder(tmp_path).read_status()["state"] == "queued"

    def test_a_lock_of_a_dead_process_does_not_count(self, tmp_path: Path) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        folder = only_folder(tmp_path)
        code = f"import os, filelock; filelock.FileLock({str(folder.path / '.lock')!r}).acquire(); os._exit(1)"
        subprocess.run([sys.executable, "-c", code], check=False)
        FileLock(folder.path / ".lock").acquire(timeout=0)
