"""Runs on this machine: bounded, isolated from one another, resumable."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from aaebench import app
from harness.commands import call
from harness.config import RunConfig, build_config
from harness.errors import InputError
from harness.record import RunFolder, find_run_folders
from harness.settings import load_config_file
from slurm.local import run_locally
from slurm.process import PlannedRun, RunInWorker, RunProcess, Worker
from slurm.submission import Submission, create_folder
from tests.harness.faults import family
from tests.harness.test_train import PATIENCE, ROOT

SHORT = load_config_file(ROOT / "tests/harness/short.yaml")


def configs(*changes: Mapping[str, object]) -> list[RunConfig]:
    return [build_config(SHORT, {"epochs": 2, **change}) for change in changes]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    outcomes = run_locally(
        configs({"seed": 0}, {"learning_rate": 10, "variant": "kld_loss"}, {"seed": 1}), tmp_path, at_once=2
    )
    statuses = {outcome.folder.path.name: outcome.exit_status for outcome in outcomes}
    assert sorted(statuses.values()) == [0, 0, 1]
    failed = next(outcome for outcome in outcomes if outcome.exit_status)
    assert failed.last_line.startswith("aaebench: ")
    assert failed.folder.read_status()["state"] == "failed"


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    run_locally(configs({"seed": 0}), tmp_path, at_once=1)
    (folder,) = find_run_folders(tmp_path)
    before = (folder.path / "log.txt").stat().st_mtime_ns
    outcomes = run_locally(configs({"seed": 0}, {"seed": 1}), tmp_path, at_once=1)
    assert [outcome.exit_status for outcome in outcomes] == [0, 0]
    assert (folder.path / "log.txt").stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from harness.config import build_config; "
        "from harness.settings import load_config_file; "
        "from slurm.local import run_locally\n"
        "base = load_config_file(Path('tests/harness/short.yaml'))\n"
        "configs = [build_config(base, {'epochs': 5000, 'seed': seed}) for seed in range(3)]\n"
        f"run_locally(configs, Path({str(tmp_path)!r}), at_once=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if sum(len(folder.read_records()) > 1 for folder in find_run_folders(tmp_path)) == 2:
            break
        time.sleep(0.05)
    process.send_signal(number)
    try:
        process.wait(timeout=PATIENCE)
    finally:
        for left in family(process):
            left.kill()
    folders = list(find_run_folders(tmp_path))
    assert [folder.read_status()["state"] for folder in folders] == ["queued", "queued"]
    assert all(list(folder.checkpoints.glob("epoch-*")) for folder in folders)


def test_a_damaged_run_folder_is_named_before_anything_runs(tmp_path: Path) -> None:
    (config,) = configs({"seed": 0})
    folder = RunFolder(tmp_path / config.run_id)
    folder.ask_for(config.model_dump(mode="json"))
    (folder.path / "status.json").write_text("{}")
    with pytest.raises(InputError, match=r"is damaged \(status\.json has the state None\)"):
        run_locally([config], tmp_path, at_once=1)
    assert not (folder.path / "log.txt").exists()


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environment of each process that is started, in place of training: it ends after the others have begun."""
    started: list[dict[str, str]] = []

    class Waiting(Worker):
        def give(self, turn: Sequence[RunInWorker], out: Path) -> None:
            started.append(self.environment)
            self._said, self.exit_statuses, self._n = b"", None, len(turn)
            self.process = subprocess.Popen(["sleep", "1"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)

    class Process(RunProcess):
        def __init__(self, run: PlannedRun, out: Path, environment: Any, rank: int, *_: Any) -> None:
            started.append({"run": run.run_id, **environment})
            self.run, self.folder, self.log = run, RunFolder(out / run.run_id), out / "log.txt"
            self.process = self.own = subprocess.Popen(["sleep", "1"])

    monkeypatch.setattr("slurm.process.Worker", Waiting)
    monkeypatch.setattr("slurm.process.RunProcess", Process)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("slurm.local.count_cores", lambda: 12)
    return started


class TestTheAllocationIsShared:
    def test_each_run_has_a_gpu_of_its_own(
        self, environments: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slurm.local.list_gpus", lambda: ["4", "7", "GPU-5d"])
        run_locally(configs(*({"seed": seed} for seed in range(3))), tmp_path)
        assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["4", "7", "GPU-5d"]
        assert {each["OMP_NUM_THREADS"] for each in environments} == {"4"}

    def test_at_once_counts_on_each_gpu(
        self, environments: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slurm.local.list_gpus", lambda: ["0", "1"])
        monkeypatch.setattr("slurm.process.POLL_SECONDS", 0.01)
        begun = []
        monkeypatch.setattr("slurm.local._show", lambda display, task, queue: begun.append(len(queue.running)))
        run_locally(configs(*({"seed": seed} for seed in range(5))), tmp_path, at_once=2, seeds_at_once=1)
        assert max(begun) == 4
        assert [each["CUDA_VISIBLE_DEVICES"] for each in environments[:4]] == ["0", "1", "0", "1"]

    def test_without_gpus_half_of_the_cores_run_and_share_all_of_them(
        self, environments: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slurm.local.list_gpus", list)
        begun = []
        monkeypatch.setattr("slurm.local._show", lambda display, task, queue: begun.append(len(queue.running)))
        run_locally(configs(*({"seed": seed} for seed in range(7))), tmp_path)
        assert max(begun) == 6
        assert {each["OMP_NUM_THREADS"] for each in environments} == {"2"}
        assert not any("CUDA_VISIBLE_DEVICES" in each for each in environments)

    def test_a_users_own_number_of_threads_is_kept(
        self, environments: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        run_locally(configs({"seed": 0}), tmp_path)
        assert environments[0]["OMP_NUM_THREADS"] == "5"


def test_cancelling_says_so_of_a_process_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text("grid: {seed: [0]}")
    submission = Submission(create_folder(tmp_path / "runs", "tiny"), "tiny", "local", {}, [])
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        submission.process = {
            "host": socket.gethostname(),
            "pid": stubborn.pid,
            "started": psutil.Process(stubborn.pid).create_time(),
        }
        submission.save()
        monkeypatch.setattr("slurm.submit.PROCESS_SECONDS", 0.3)
        tokens = ["sweep", "cancel", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs")]
        assert call(lambda: app(tokens, result_action="return_value")) == 1
        assert f"end it at once with kill -9 {stubborn.pid}" in capfd.readouterr().err
        stubborn.kill()
        assert call(lambda: app(tokens, result_action="return_value")) == 0
