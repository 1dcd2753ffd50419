"""One rank of two is killed: the other ends soon, says why, and the same command resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunFolder
from tests.harness.faults import EIGHT_EPOCHS, family, find_rank, train_pair
from tests.harness.launch.test_processes import finish, free_port
from tests.harness.test_train import ROOT, assert_same_run, only_folder, wait_for_epoch

OFTEN = ("--set", "checkpoint_every=1")
BOUND_SECONDS = 300  # a busy machine's; who only notices when communication times out takes 30 minutes
SAID = "of 2 has lost another process of this run, which was killed or failed"


def torchrun_pair(out: Path, *settings: str) -> Any:
    rendezvous = ("--nproc_per_node", "2", "--master_port", str(free_port()))
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", "harness.train"]
    return subprocess.Popen(
        [*command, *EIGHT_EPOCHS, *settings, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def lose(process: Any, rank: int) -> str:
    """Kill a rank. Returns: what the launch said until it ended, within the bound."""
    ranks = family(process)[1:]
    find_rank(process, rank).kill()
    killed_at = time.monotonic()
    stderr = process.communicate(timeout=BOUND_SECONDS)[1]
    print(f"the launch ended {time.monotonic() - killed_at:.1f} s after rank {rank} was killed")
    assert process.returncode != 0
    assert not any(member.is_running() for member in ranks)
    return stderr


@pytest.mark.parametrize("launch", [train_pair, torchrun_pair])
def test_the_main_process_says_so_in_the_status_too(launch: Any, tmp_path: Path, uninterrupted_pair: RunFolder) -> None:
    process = launch(tmp_path, *OFTEN)
    wait_for_epoch(tmp_path, 2)
    stderr = lose(process, 1)
    assert stderr.count(f"aaebench: rank 0 {SAID}") == 1
    folder = only_folder(tmp_path)
    assert folder.read_status()["state"] == "failed"
    assert folder.read_status()["reason"].startswith(f"PeerLostError: rank 0 {SAID}")
    if launch == train_pair:  # once is enough
        finish(launch(tmp_path, *OFTEN))
        assert_same_run(folder, uninterrupted_pair)


def test_without_the_main_process_the_other_says_so(tmp_path: Path, uninterrupted_pair: RunFolder) -> None:
    process = train_pair(tmp_path, *OFTEN)
    wait_for_epoch(tmp_path, 2)
    stderr = lose(process, 0)
    assert stderr.count(f"aaebench: rank 1 {SAID}") == 1
    folder = only_folder(tmp_path)
    assert folder.read_status()["state"] == "running"
    finish(train_pair(tmp_path, *OFTEN))
    assert_same_run(folder, uninterrupted_pair)
    assert folder.read_status()["interruptions"] == 1


def test_the_launchers_sigterm_does_not_keep_it_from_saying_so(tmp_path: Path) -> None:
    """It comes within a tenth of a second, here before anything is noticed, and once more from the launcher."""
    process = train_pair(tmp_path, *OFTEN)
    wait_for_epoch(tmp_path, 2)
    main = find_rank(process, 0)
    main.suspend()
    main.send_signal(signal.SIGTERM)
    find_rank(process, 1).kill()
    main.resume()
    stderr = process.communicate(timeout=BOUND_SECONDS)[1]
    assert stderr.count(f"aaebench: rank 0 {SAID}") == 1
    assert only_folder(tmp_path).read_status()["state"] == "failed"
