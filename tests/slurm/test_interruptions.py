"""Whatever interrupts a job on a real SLURM, its run ends as one that nothing interrupted."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunFolder
from results.read.collect import collect
from slurm.estimate import Timing, kinds_of, save_probe
from slurm.sweep import load_sweep
from tests.harness.test_train import PATIENCE, assert_same_run, only_folder
from tests.slurm.cluster import wait_for
from tests.slurm.conftest import Sweep, train_alone

# Three seconds of sleep an epoch in a job: 60 seconds on any machine, which is more than the minute less its warning.
PACED = """
import os, time
from variants.aae import AAE
class Paced(AAE):
    def reconstruction_loss(self, x):
        time.sleep(0.15 if "SLURM_JOB_ID" in os.environ else 0)
        return super().reconstruction_loss(x)
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> RunFolder:
    out = tmp_path_factory.mktemp("uninterrupted") / "runs"
    assert train_alone(out).wait(PATIENCE) == 0
    return only_folder(out)


@pytest.fixture
def begun(sweep: Sweep) -> Iterator[Sweep]:
    """One run on the cluster, some epochs old."""
    sweep.write({"seed": [0]})
    sweep.submit("--executor", "slurm")
    sweep.wait_for_epoch(5)
    yield sweep
    sweep.command("cancel")


def interruptions(sweep: Sweep) -> Any:
    (folder,) = sweep.folders()
    in_csv = collect(sweep.out).runs["interruptions"]
    assert set(in_csv) == {folder.read_status()["interruptions"]}
    return in_csv.iloc[-1]


def test_a_warned_job_saves_requeues_itself_and_resumes(begun: Sweep, uninterrupted: RunFolder) -> None:
    job_id = begun.job_id()
    begun.cluster.output("scancel", "--signal=USR2", job_id)
    wait_for(lambda: begun.folders()[0].read_status()["state"] == "queued", 60, "the run saved")
    assert begun.folders()[0].read_status()["reason"] == "interrupted by SIGUSR2"
    begun.wait_until_done()
    assert_same_run(begun.folders()[0], uninterrupted)
    assert interruptions(begun) == 1
    assert "Restarts=1" in begun.cluster.output("scontrol", "show", "job", job_id)


def test_a_requeued_job_resumes_from_disk(begun: Sweep, uninterrupted: RunFolder) -> None:
    begun.cluster.output("scontrol", "requeue", begun.job_id())
    begun.wait_until_done()
    assert_same_run(begun.folders()[0], uninterrupted)
    assert interruptions(begun) == 1


@pytest.mark.parametrize("loss", ["its power", "its slurmd only"])
def test_a_lost_node_costs_nothing_but_time(begun: Sweep, uninterrupted: RunFolder, loss: str) -> None:
    """Without its slurmd the run goes on there, while SLURM starts it anew elsewhere: the two must not meet."""
    job_id = begun.job_id()
    node = begun.cluster.output("squeue", "-h", "-j", job_id, "-o", "%N")
    daemon = begun.cluster.daemons[f"slurmd-{node}"]
    daemon.kill()
    daemon.wait()
    if loss == "its power":
        kill(rf"slurmstepd: \[{job_id}\.")
        kill(str(begun.out))
    try:
        wait_for(
            lambda: begun.cluster.output("sinfo", "-h", "-n", node, "-o", "%t") == "down*", 120, "the node is down"
        )
        begun.wait_until_done()
        assert_same_run(begun.folders()[0], uninterrupted)
        assert interruptions(begun) == (1 if loss == "its power" else 0)
        restarted = ("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T")
        wait_for(lambda: begun.cluster.output(*restarted) == "COMPLETED", 300, "the restarted job ends well")
    finally:
        begun.cluster.start_node(node)
    wait_for(lambda: begun.cluster.output("sinfo", "-h", "-n", node, "-o", "%t") == "idle", 120, "the node is back")


def kill(pattern: str) -> None:
    """Kill the processes whose command line matches."""
    found = subprocess.run(["pgrep", "--full", "--", pattern], capture_output=True, text=True, check=True)
    for process in found.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def test_a_time_limit_is_survived_as_often_as_it_takes(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "paced.py").write_text(PACED)
    run = {"variant": "paced:Paced", "epochs": 20, "eval_every": 10}
    reference = train_alone(tmp_path / "reference", **run)
    sweep.write({"seed": [0]}, {"timeout_min": 1}, **run)
    sweep.submit()
    sweep.wait_until_done(400)
    assert reference.wait(PATIENCE) == 0
    assert_same_run(sweep.folders()[0], only_folder(tmp_path / "reference"))
    assert interruptions(sweep) >= 1
    assert sweep.folders()[0].read_environment()["launches"][1]["epoch"] >= 1


def test_a_requeued_job_leaves_the_runs_that_failed_to_retry(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text(
        "from variants.aae import AAE\n\n\n"
        "class Raises(AAE):\n"
        "    def reconstruction_loss(self, x):\n"
        "        raise RuntimeError('no')\n"
    )
    sweep.write({"variant": ["raising:Raises", "aae"]}, {"min_job_minutes": 30}, epochs=40)
    timing = Timing(epoch_seconds=1, evaluation_seconds=1, measured="probe")
    configs = load_sweep(sweep.file).configs
    save_probe(sweep.out, "tiny", dict.fromkeys(kinds_of(configs).values(), timing))
    assert "submitted 2 runs in 1 jobs" in sweep.submit()
    failed, other = (RunFolder(sweep.out / config.run_id) for config in configs)
    wait_for(lambda: other.path.exists() and len(other.read_records()) > 2, 120, "the second run")
    log, status = (failed.path / "log.txt").read_text(), failed.read_status()
    sweep.cluster.output("scancel", "--signal=USR2", sweep.status()[1]["job"])
    wait_for(lambda: other.read_status()["state"] == "queued", 60, "the run saved")
    sweep.wait_until(lambda: other.read_status()["state"] == "done", 180, "the second run is done")
    assert ((failed.path / "log.txt").read_text(), failed.read_status()) == (log, status)
    assert sweep.states() == ["failed", "done"]


def test_a_helper_process_that_a_run_forks_does_not_requeue_the_job(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(
        "import os, time\n"
        "from variants.aae import AAE\n"
        "class Forking(AAE):\n"
        "    def __init__(self, *arguments):\n"
        "        super().__init__(*arguments)\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(15)\n"
        "            os._exit(0)\n"
    )
    sweep.write({"variant": ["forking:Forking"]})
    sweep.submit()
    folder = sweep.wait_for_epoch(2)
    job_id = sweep.job_id()
    sweep.cluster.output("scancel", "--signal=USR2", job_id)
    wait_for(lambda: folder.read_status()["state"] == "queued", 60, "the run saved")
    sweep.wait_until_done()
    assert "Restarts=1" in sweep.cluster.output("scontrol", "show", "job", job_id)
    logs = "".join(log.read_text() for log in sweep.out.glob("sweeps/tiny/*/jobs/*_log.*"))
    assert logs.count("Requeued job") == 1
