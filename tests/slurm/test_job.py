"""The supervisor of a job's runs, without a cluster."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.helpers import TorchDistributedEnvironment

from harness.config import build_config
from harness.errors import RunsFailedError
from harness.lock import owned
from harness.record import RunFolder
from slurm.job import FRUITLESS_LAUNCHES, Job
from slurm.process import Outcome, Peers, PlannedRun, RunQueue, choose_port, explain_exit, plan_run, record_failure
from tests.harness.test_train import ROOT
from tests.slurm.pretended import pretend


def test_a_forked_process_carries_no_handler_of_the_job(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from slurm.job import Job
signal.signal(signal.SIGUSR2, lambda *_: print("requeue"))
job = Job([], Path("{tmp_path}"), Path("{tmp_path}"), 1, 1, 1.0)
signals = []
job._note_signals(signals)
child = os.fork()
if child == 0:
    kept = signal.getsignal(signal.SIGUSR2) != signal.SIG_IGN or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    os._exit(kept)
assert os.waitpid(child, 0)[1] == 0
os.kill(os.getpid(), signal.SIGUSR2)
assert signals == [signal.SIGUSR2]
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_run_that_is_interrupted_before_it_saves_anything_fails_in_the_end(tmp_path: Path) -> None:
    config = build_config({"seed": 0})
    run = plan_run(config, tmp_path)
    folder = RunFolder(tmp_path / config.run_id)
    folder.ask_for(run.config)
    job = Job([run], tmp_path, tmp_path, 1, 1, 1.0)
    queue = RunQueue([], tmp_path, 1, {})
    queue.outcomes.append(Outcome(folder, -signal.SIGUSR2, ""))
    for _ in range(FRUITLESS_LAUNCHES - 1):
        job._count_fruitless(queue, {run.run_id: ""})
    assert job.runs == [run]
    job._count_fruitless(queue, {run.run_id: ""})
    assert job.runs == []
    assert "raise timeout_min" in folder.read_status()["reason"]


@pytest.mark.parametrize(
    ("exit_status", "interruption"),
    [(0, None), (1, None), (-9, None), (-12, signal.SIGUSR2), (140, signal.SIGUSR2), (143, signal.SIGTERM)],
)
def test_exit_statuses_that_mean_an_interruption(tmp_path: Path, exit_status: int, interruption: int | None) -> None:
    assert Outcome(RunFolder(tmp_path), exit_status, "").interruption == interruption


@pytest.mark.parametrize("again", ["by SLURM's requeue", "by sweep retry"])
def test_a_run_that_failed_in_this_job_is_left_to_retry(tmp_path: Path, again: str) -> None:
    config = build_config({"seed": 0})
    folder = RunFolder(tmp_path / config.run_id)
    run = plan_run(config, tmp_path)
    folder.ask_for(run.config)
    folder.write_status("failed", reason="RuntimeError: no")
    if again == "by sweep retry":
        run = plan_run(config, tmp_path)
    queue = RunQueue([run], tmp_path, 1, {})
    assert queue._may_start(run) == (again == "by sweep retry")
    assert [outcome.last_line for outcome in queue.outcomes] == ([] if queue.waiting else ["RuntimeError: no"])


class TestWhereRanksMeet:
    @pytest.mark.parametrize("job_id", ["7", "7_12", "7_21", "7_30"])
    def test_is_where_submitit_has_them_meet(self, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
        array, _, task = job_id.partition("_")
        monkeypatch.delenv("MASTER_PORT", raising=False)
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        monkeypatch.setenv("SLURM_JOB_ID", array)
        if task:
            monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert TorchDistributedEnvironment().master_port == choose_port(job_id, restarts=0)

    def test_tasks_of_an_array_do_not_share_it(self) -> None:
        assert len({choose_port(f"7_{task}", restarts=0) for task in (12, 21, 30)}) == 3

    def test_a_restarted_job_meets_elsewhere(self) -> None:
        assert choose_port("7", restarts=0) != choose_port("7", restarts=1)


def test_where_slurm_refuses_to_requeue_the_runs_say_so(tmp_path: Path) -> None:
    runs = [plan_run(build_config({"seed": seed}), tmp_path) for seed in (0, 1, 2)]
    interrupted, done, _ = folders = [RunFolder(tmp_path / run.run_id) for run in runs]
    interrupted.ask_for({})
    interrupted.write_status("queued", reason="interrupted by SIGUSR2", epoch=3, epochs=9, interruptions=2)
    done.ask_for({})
    done.write_status("done")

    def refuse(number: int, frame: Any) -> None:
        raise subprocess.CalledProcessError(1, ["scontrol", "requeue", "7"])

    with pytest.raises(RunsFailedError, match="does not let this job requeue itself"):
        Job(runs, tmp_path, tmp_path, 1, 1, 1.0)._requeue(refuse)
    status = interrupted.read_status()
    assert status["reason"].startswith("interrupted by SIGUSR2; SLURM does not let this job requeue itself")
    assert (status["state"], status["epoch"], status["interruptions"]) == ("queued", 3, 2)
    assert done.read_status()["state"] == "done"
    assert not folders[2].path.exists()


def test_a_failure_is_recorded_unless_the_run_has_said_why_itself(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.ask_for({})
    folder.write_status("running", epoch=3, epochs=9, interruptions=2)
    record_failure(folder, explain_exit(Outcome(folder, -9, "")), started=0)
    assert folder.read_status()["reason"].startswith("killed by SIGKILL")
    assert folder.read_status()["interruptions"] == 2
    record_failure(folder, "later", started=0)
    assert folder.read_status()["reason"].startswith("killed by SIGKILL")
    folder.write_status("done")
    record_failure(folder, "too late", started=0)
    assert folder.read_status()["state"] == "done"


def test_ranks_learn_of_one_another_and_name_every_distinct_reason(tmp_path: Path) -> None:
    peers = [Peers(tmp_path / "launch", rank, 3, rank, 3, "localhost", 20005) for rank in range(3)]
    assert not peers[0].others_gave_up("run")
    peers[2].give_up("run", "RuntimeError: no")
    assert peers[0].others_gave_up("run")
    assert not peers[2].others_gave_up("run")
    peers[0].give_up("run", "")
    peers[1].give_up("run", "RuntimeError: no")
    assert peers[0].collect_reasons("run", 5) == "RuntimeError: no (rank 1)"
    ports = {peers[0].describe_rendezvous(run)["MASTER_PORT"] for run in range(4)}
    assert len(ports) == 4, "a run's ranks must not meet those of the run before"


class TestRunsOfSeveralRanks:
    """Each rank has a queue of its own over the same runs; what they start one after another must be the same."""

    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
        """Rank, run and port of what the queues start, in place of training processes."""
        started = []

        class Process:
            def __init__(self, run: PlannedRun, out: Path, environment: Any, rank: int, *_: Any) -> None:
                started.append((str(rank), run.run_id, environment["MASTER_PORT"]))
                self.run, self.folder, self.process = run, RunFolder(out / run.run_id), subprocess.Popen(["true"])

            def poll(self) -> int | None:
                return self.process.poll()

            def end(self) -> Outcome:
                return Outcome(self.folder, 0, "")

        monkeypatch.setattr("slurm.process.RunProcess", Process)
        return started

    @pytest.fixture
    def folders(self, tmp_path: Path) -> list[RunFolder]:
        return [RunFolder(tmp_path / build_config({"seed": seed, "epochs": 1}).run_id) for seed in (0, 1)]

    @pytest.fixture
    def queues(self, folders: list[RunFolder], tmp_path: Path) -> list[RunQueue]:
        runs = [plan_run(build_config({"seed": seed, "epochs": 1}), tmp_path) for seed in (0, 1)]
        for run, folder in zip(runs, folders, strict=True):
            folder.ask_for(run.config)
        peers = [Peers(tmp_path / "launch", rank, 2, rank, 2, "localhost", 20005) for rank in range(2)]
        return [RunQueue(runs, tmp_path, 1, {}, rank, peers[rank]) for rank in range(2)]

    def test_all_wait_for_one_that_another_process_still_trains(
        self, folders: list[RunFolder], queues: list[RunQueue], started: list[tuple[str, str, str]]
    ) -> None:
        first, second = (folder.path.name for folder in folders)
        with owned(folders[0]):
            assert all(queue.step() for queue in queues)
            assert started == [("1", first, "20005")]
        for queue in queues:
            queue.wait()
        assert sorted(started) == sorted((r, *run) for r in "01" for run in ((first, "20005"), (second, "20006")))

    def test_none_starts_one_that_is_done(
        self, folders: list[RunFolder], queues: list[RunQueue], started: list[tuple[str, str, str]]
    ) -> None:
        pretend(folders[0], build_config({"seed": 0, "epochs": 1}), "done", epoch=1)
        for queue in queues:
            queue.wait()
        assert started == [(rank, folders[1].path.name, "20006") for rank in "01"]

    def test_whoever_waited_for_the_others_of_one_that_is_done_has_not_failed(
        self, folders: list[RunFolder], queues: list[RunQueue], started: list[tuple[str, str, str]]
    ) -> None:
        main, other = queues
        other.step()
        other.running[0].end = lambda: Outcome(folders[0], -signal.SIGKILL, "")
        folders[0].write_status("done")
        main.wait()
        other.wait()
        assert [outcome.exit_status for outcome in other.outcomes] == [0, 0]

    @pytest.mark.parametrize(("shown", "local"), [("4,5,6,7", ("0", "1")), ("6", ("0", "1")), ("", ("2", "4"))])
    def test_each_is_alone_with_the_gpu_that_it_is_shown(
        self, shown: str, local: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its only GPU is number 0 to every library, whatever the rank on the node."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        environment: Any = SimpleNamespace(
            hostnames=["localhost"], job_id="1", global_rank=2, local_rank=2, num_tasks=4, num_nodes=1
        )
        job = Job([], tmp_path, tmp_path, 4, 1, 1.0)
        variables = job._build_environment(environment) | job._build_peers(environment).describe_rendezvous(0)
        assert (variables["LOCAL_RANK"], variables["LOCAL_WORLD_SIZE"]) == local
        assert variables["RANK"] == "2"
        assert variables["CUDA_VISIBLE_DEVICES"] in ("6", "")
