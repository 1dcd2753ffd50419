"""The cluster that the tests of this folder run on, and the sweeps that they submit to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaebench import app
from harness.commands import call
from harness.record import RunFolder, find_run_folders
from tests.conftest import require
from tests.harness.test_train import ROOT
from tests.slurm.cluster import (
    ACCOUNTING_PROGRAMS,
    INSTALL,
    INSTALL_ACCOUNTING,
    PROGRAMS,
    SBIN,
    Cluster,
    find_missing,
    wait_for,
)

RUN = {"preset": "demo", "max_images": 320, "batch_size": 16, "epochs": 60, "eval_every": 30, "checkpoint_every": 20}
SLURM = {"gpus_per_node": 1, "cpus_per_task": 1, "timeout_min": 10, "setup": ["export OMP_NUM_THREADS=1"]}


def require_programs(programs: Sequence[str], install: str) -> None:
    missing = find_missing(programs)
    require(not missing, f"SLURM is not installed ({', '.join(missing)}): {install}")


@pytest.fixture(scope="session")
def cluster(cache: Path) -> Iterator[Cluster]:
    """Three nodes with two fake GPUs each, without accounting, for the whole session."""
    require_programs(PROGRAMS, INSTALL)
    yield from running(Cluster())


@pytest.fixture(scope="module")
def accounting_cluster(cache: Path) -> Iterator[Cluster]:
    """The same with slurmdbd and MariaDB, whose controller forgets jobs at once."""
    require_programs((*PROGRAMS, *ACCOUNTING_PROGRAMS), INSTALL_ACCOUNTING)
    yield from running(Cluster(accounting=True))


@pytest.fixture(scope="module")
def small_cluster(cache: Path) -> Iterator[Cluster]:
    """One without arrays, that takes five jobs at a time, and whose nodes can be powered down."""
    require_programs(PROGRAMS, INSTALL)
    power = "SuspendProgram=/bin/true\nResumeProgram=/bin/true\nSuspendTime=1000000\nSuspendTimeout=1"
    yield from running(Cluster(settings=f"MaxArraySize=1\nMaxJobCount=6\n{power}"))


def running(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster that is stopped after failures too, and when the tests are terminated, as by a time limit."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, before)


class Sweep:
    """One sweep on a cluster, given to the command line as its user would."""

    def __init__(self, cluster: Cluster, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.cluster, self.out, self.file, self.capfd = cluster, folder / "runs", folder / "tiny.yaml", capfd

    def write(self, grid: dict[str, Any], slurm: dict[str, Any] | None = None, **fixed: Any) -> None:
        content = {"name": "tiny", "grid": grid, "fixed": RUN | fixed, "slurm": SLURM | (slurm or {})}
        self.file.write_text(yaml.safe_dump(content))

    def command(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of `aaebench sweep <name>`."""
        self.capfd.readouterr()
        tokens = ["sweep", name, str(self.file), "--out", str(self.out), *arguments]
        status = call(lambda: app(tokens, result_action="return_value"))
        printed, errors = self.capfd.readouterr()
        return status, printed, errors

    def submit(self, *arguments: str) -> str:
        status, _, error = self.command("submit", *arguments)
        assert status == 0, error
        return error

    def status(self) -> list[dict[str, Any]]:
        return json.loads(self.command("status", "--json")[1])

    def states(self) -> list[str]:
        return [run["state"] for run in self.status()]

    def folders(self) -> list[RunFolder]:
        return list(find_run_folders(self.out)) if self.out.exists() else []

    def queue(self, field: str = "%T") -> list[str]:
        return self.cluster.output("squeue", "--noheader", "--array", "--states=all", f"--format={field}").splitlines()

    def job_id(self) -> str:
        """The job of the first run, as SLURM's commands take it."""
        return wait_for(lambda: self.status()[0]["job"], 60, "a job")

    def wait_for_epoch(self, epoch: int) -> RunFolder:
        def reached() -> bool:
            return bool(self.folders()) and len(self.folders()[0].read_records()) > epoch

        wait_for(reached, 120, f"epoch {epoch}")
        return self.folders()[0]

    def wait_until_done(self, seconds: float = 180) -> None:
        """Until every run is done."""

        def done() -> bool:
            folders = self.folders()
            return bool(folders) and all(folder.read_status()["state"] == "done" for folder in folders)

        self.wait_until(done, seconds, "all runs done")

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until something is so. A requeued job is held for two minutes: here it starts after four seconds.

        Earlier, its node may still refuse it: a slurmd revokes the old launch's credential by the second.
        """
        held_since: dict[str, float] = {}

        def checked() -> bool:
            for line in self.queue("%A|%T|%r"):
                job_id, state, reason = line.split("|")
                if state != "PENDING" or reason != "BeginTime":
                    held_since.pop(job_id, None)
                elif time.monotonic() - held_since.setdefault(job_id, time.monotonic()) > 4:
                    self.cluster.output("scontrol", "update", f"JobId={job_id}", "StartTime=now")
            return condition()

        try:
            wait_for(checked, seconds, what)
        except TimeoutError as error:
            logs = sorted(self.out.glob("sweeps/*/*/jobs/*log.*")) + sorted(self.out.glob("*/log*.txt"))
            text = "\n".join(f"==> {log}\n{log.read_text()[-1500:]}" for log in logs)
            raise AssertionError(f"{error}\n{self.queue('%i %T %r')}\n{text}") from error


@pytest.fixture
def build_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[Cluster], Sweep]:
    """A sweep in a working folder of its own, with the cluster's commands at hand."""

    def build(cluster: Cluster) -> Sweep:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{SBIN}")
        monkeypatch.chdir(tmp_path)
        return Sweep(cluster, tmp_path, capfd)

    return build


@pytest.fixture
def sweep(cluster: Cluster, build_sweep: Callable[[Cluster], Sweep]) -> Sweep:
    return build_sweep(cluster)


def train_alone(out: Path, **fields: Any) -> subprocess.Popen[bytes]:
    """The same run as one process outside of SLURM, with as many threads as in a job."""
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(RUN | fields))
    return subprocess.Popen(
        [sys.executable, "-m", "harness.train", "--config", str(file), "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
