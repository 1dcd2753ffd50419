"""What happens to real runs: processes are killed, disks are full. Helpers of the tests of faults."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from harness.record import RunFolder
from tests.conftest import require
from tests.harness.launch.test_processes import launch
from tests.harness.test_train import PATIENCE, SHORT, only_folder, wait_for_epoch

EIGHT_EPOCHS = (*SHORT, "--epochs", "8")


def train_pair(out: Path, *settings: str) -> Any:
    """Two processes train eight epochs under accelerate launch."""
    return launch(out, 2, "-m", "harness.train", *EIGHT_EPOCHS, *settings)


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def family(process: Any) -> list[psutil.Process]:
    """A process and all that it started. Launchers give each rank a session of its own, so no process group has all."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(process: Any) -> None:
    """kill -9 of a launch as a whole: the launcher first, so that it cannot react to its ranks' end."""
    for member in family(process):
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=PATIENCE)


def find_rank(process: Any, rank: int) -> psutil.Process:
    """The process of one rank, by what its launcher told it."""
    return next(member for member in family(process)[1:] if member.environ().get("RANK") == str(rank))


def kill_at_epoch(process: Any, out: Path, epoch: int) -> RunFolder:
    wait_for_epoch(out, epoch)
    kill_all(process)
    return only_folder(out)


def own_tracebacks(stderr: str) -> int:
    """Tracebacks of this project's code. torch's launcher prints its own whenever a rank fails, whatever the reason."""
    return stderr.count('/harness/commands.py", line')


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of this size, and what gives it another size."""
    folder.mkdir(parents=True, exist_ok=True)

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def resize(kibibytes: int) -> None:
        assert mount(f"remount,size={kibibytes}k")

    require(mount(f"size={kibibytes}k"), "file systems cannot be mounted here: these tests need root")
    try:
        yield resize
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return
