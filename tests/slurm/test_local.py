"""Runs on this machine: bounded, isolated from one another, resumable."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config import RunConfig, build_config
from harness.errors import InputError
from harness.record import RunFolder, find_run_folders
from harness.settings import load_config_file
from slurm.local import run_locally
from tests.harness.test_train import ROOT

SHORT = load_config_file(ROOT / "tests/harness/short.yaml")


def configs(*changes: dict[str, object]) -> list[RunConfig]:
    return [build_config(SHORT, {"epochs": 2, **change}) for change in changes]


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    outcomes = run_locally(configs({"seed": 0}, {"learning_rate": 1e30}, {"seed": 1}), tmp_path, at_once=2)
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
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if sum(len(folder.read_records()) > 1 for folder in find_run_folders(tmp_path)) == 2:
            break
        time.sleep(0.05)
    process.send_signal(number)
    process.wait(timeout=60)
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
