"""Runs on this machine: a bounded number at once, each a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.config import RunConfig
from harness.errors import Interrupted, RunsFailedError
from harness.guard import check_folder, create_folder
from harness.record import RunFolder
from harness.terminal import console

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a run's process ended: its exit status, and the last line of its log."""

    folder: RunFolder
    exit_status: int
    last_line: str


def run_locally(configs: Sequence[RunConfig], out: Path, at_once: int) -> list[Outcome]:
    """Run everything, at most `at_once` processes at a time, sharing the cores. Each logs to log.txt in its folder.

    A run that fails does not stop the others. An interrupt is passed on: every run saves itself before this returns.
    """
    waiting, running, outcomes = [], [], []
    for config in configs:
        folder = RunFolder(out / config.run_id)
        check_folder(folder, config)
        if folder.read_status()["state"] == "done":
            outcomes.append(Outcome(folder, 0, ""))
        else:
            waiting.append(config)
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with terminated_as_interrupted(), Progress(*columns, console=console) as display:
        task = display.add_task("", total=len(configs))
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_start(waiting.pop(0), out, environment))
                for entry in [entry for entry in running if entry[1].poll() is not None]:
                    running.remove(entry)
                    outcomes.append(_finish(*entry))
                display.update(task, completed=len(outcomes), description=_describe([folder for folder, _ in running]))
                time.sleep(POLL_SECONDS)
        finally:
            for _, process in running:
                process.send_signal(signal.SIGTERM)
            for _, process in running:
                process.wait()
    return outcomes


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that the runs under way are told to save themselves."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def require_all_done(outcomes: Sequence[Outcome]) -> None:
    """Raises: RunsFailedError naming the runs that did not finish, with the last lines of their logs."""
    failed = [outcome for outcome in outcomes if outcome.exit_status != 0]
    if failed:
        lines = "\n".join(f"  {outcome.folder.path}/log.txt: {outcome.last_line}" for outcome in failed)
        raise RunsFailedError(f"{len(failed)} of {len(outcomes)} runs did not finish:\n{lines}")


def _start(config: RunConfig, out: Path, environment: dict[str, str]) -> tuple[RunFolder, subprocess.Popen[bytes]]:
    folder = RunFolder(out / config.run_id)
    create_folder(folder, config)
    command = [sys.executable, "-m", "harness.train", "--config", str(folder.config_file), "--out", str(out)]
    with (folder.path / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return folder, process


def _finish(folder: RunFolder, process: subprocess.Popen[bytes]) -> Outcome:
    lines = (folder.path / "log.txt").read_text(errors="replace").splitlines()
    return Outcome(folder, process.returncode, lines[-1] if lines else "")


def _describe(folders: list[RunFolder]) -> str:
    """The runs under way with their epochs; their start-up is most of a short run, so it is said too."""
    parts = []
    for folder in folders:
        status = folder.read_status()
        progress = f"{status['epoch']}/{status['epochs']}" if "epoch" in status else "starting"
        parts.append(f"{folder.path.name.rpartition('-')[0]} ({progress})")
    return "  ".join(parts)
