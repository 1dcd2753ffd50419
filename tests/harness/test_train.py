"""What a run leaves behind."""

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aaebench import app
from harness.commands import call
from harness.readings import read_epoch
from harness.record import RunFolder, find_run_folders, key_of

SHORT = ("--config", "tests/harness/short.yaml")
ROOT = Path(__file__).parent.parent.parent
PATIENCE = 500  # seconds, for what hangs; nothing else may depend on how busy the machine is


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
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        folders = list(find_run_folders(out)) if out.exists() else []
        if folders and len(folders[0].read_records()) > epoch:
            return
        time.sleep(0.01)
    raise AssertionError(f"epoch {epoch} was not reached")


def untimed(folder: RunFolder) -> list[dict[str, Any]]:
    """All that was recorded, the lines of evaluations too, in one order whenever they were made."""
    measured = [line for evaluation in folder.find_evaluations() for line in sorted(evaluation.read(), key=key_of)]
    return [
        {key: value for key, value in record.items() if not key.startswith("time/")}
        for record in (*folder.read_records(), *measured)
    ]


def evaluated(folder: RunFolder, epoch: int) -> dict[str, Any]:
    """What the run's only evaluation says of one epoch."""
    (evaluation,) = folder.find_evaluations()
    return read_epoch(folder, evaluation.protocol_id, epoch)


def final_weights(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint's tensors, by file and name."""
    files = sorted((folder.checkpoints / "latest").resolve().glob("*.safetensors"))
    return {f"{file.name}/{key}": tensor for file in files for key, tensor in load_file(file).items()}


def assert_same_run(first: RunFolder, second: RunFolder) -> None:
    """Records, weights, the optimiser's state, and which checkpoints are the newest and the best."""
    assert untimed(first) == untimed(second)
    for link in ("latest", "best"):
        assert (first.checkpoints / link).readlink() == (second.checkpoints / link).readlink(), link
    ours, theirs = final_weights(first), final_weights(second)
    assert ours.keys() == theirs.keys()
    assert all(ours[key].equal(theirs[key]) for key in ours)


class TestARun:
    def test_its_records(self, uninterrupted: RunFolder) -> None:
        records = uninterrupted.read_records()
        assert [record["epoch"] for record in records] == list(range(9))
        (evaluation,) = uninterrupted.find_evaluations()
        assert evaluation.protocol_id.startswith("paper-")
        lines = evaluation.read()
        assert [line["epoch"] for line in lines if line.get("sampler") == "prior"] == [0, 2, 4, 6, 8]
        assert [line["epoch"] for line in lines if "sampler" not in line] == [0, 2, 4, 6, 8]
        assert [line["epoch"] for line in lines if line.get("sampler") == "reconstruction"] == [8]
        assert records[3]["images_seen"] == 3 * 320
        last = records[-1]
        for key in ("loss/reconstruction", "loss/discriminator", "loss/adversary", "time/images_per_second"):
            assert last[key] > 0
        measured = evaluated(uninterrupted, 8)
        assert measured["eval/fid"] < evaluated(uninterrupted, 0)["eval/fid"] / 2
        assert measured["images_seen"] == last["images_seen"]
        assert len(measured["posterior/sigma_mean_per_dim"]) == 10

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


class TestDivergence:
    def test_divergence_stops_the_run_with_its_reason(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "3", "--learning-rate", "10", "--variant", "kld_loss") == 1
        status = only_folder(tmp_path).read_status()
        assert status["state"] == "failed"
        assert re.search(r"DivergedError: (loss|eval)/\w+ is (nan|inf)|not finite", status["reason"])
        assert re.search("aaebench: .*(nan|inf|not finite)", capfd.readouterr().err)
