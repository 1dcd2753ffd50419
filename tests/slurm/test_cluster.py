"""Sweeps on a real SLURM: arrays, several nodes, failures, a second submit, cancelling, what SLURM refuses."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from aaebench import app
from harness.commands import call
from harness.record import RunFolder
from slurm.cluster import read_jobs
from slurm.estimate import Timing, kinds_of, save_probe
from slurm.overview import describe_failures
from slurm.status import read_statuses
from slurm.sweep import load_sweep
from tests.harness.test_train import PATIENCE, assert_same_run, evaluated, only_folder
from tests.slurm.cluster import wait_for
from tests.slurm.conftest import Sweep, train_alone

SHORT: dict[str, Any] = {"epochs": 2, "eval_every": 2}
TWO_NODES = {"nodes": 2, "gpus_per_node": 2}


def test_a_sweep_is_one_array_of_the_code_that_was_submitted_and_runs_once(sweep: Sweep, tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text("from variants.aae import AAE\n\n\nclass Mine(AAE):\n    pass\n")
    sweep.write({"variant": ["mine:Mine", "aae"], "seed": [0, 1]}, {"sbatch": {"hold": True}}, **SHORT)
    assert "submitted 4 runs in 4 jobs" in sweep.submit()
    assert sweep.states() == ["pending"] * 4
    assert len(set(sweep.queue("%i"))) >= 4
    assert len(set(sweep.queue("%F"))) == 1, "one array"
    own.write_text("raise RuntimeError('edited while the jobs were waiting')")
    sweep.cluster.output("scontrol", "release", sweep.queue("%F")[0])
    sweep.wait_until_done()
    own.write_text("from variants.aae import AAE\n\n\nclass Mine(AAE):\n    pass\n")
    assert sweep.states() == ["done"] * 4
    assert {folder.read_environment()["git_commit"] for folder in sweep.folders()} != {None}
    before = [(folder.path / "log.txt").stat().st_mtime_ns for folder in sweep.folders()]
    assert "4 done" in sweep.submit()
    assert len(sweep.queue()) == 4
    assert [(folder.path / "log.txt").stat().st_mtime_ns for folder in sweep.folders()] == before


def test_two_nodes_of_two_tasks_train_as_one_process_does(sweep: Sweep, tmp_path: Path) -> None:
    """Without BatchNorm in encoder and decoder, and without dropout, only the order of sums differs."""
    (tmp_path / "calm.py").write_text(
        "from torch import nn\n"
        "from variants.equal_linear import EqualLinearAAE\n\n\n"
        "class Calm(EqualLinearAAE):\n"
        "    def __init__(self, *arguments):\n"
        "        super().__init__(*arguments)\n"
        "        for module in self.modules():\n"
        "            if isinstance(module, nn.Dropout):\n"
        "                module.p = 0.0\n"
    )
    alone = train_alone(tmp_path / "alone", variant="calm:Calm", **SHORT)
    sweep.write({"variant": ["calm:Calm"]}, TWO_NODES, **SHORT)
    sweep.submit()
    sweep.wait_until_done()
    assert alone.wait(PATIENCE) == 0
    (four,), one = sweep.folders(), only_folder(tmp_path / "alone")
    assert four.path.name == one.path.name
    assert four.read_environment()["num_processes"] == 4
    for ours, theirs in zip(four.read_records(), one.read_records(), strict=True):
        for key, value in theirs.items():
            if key.startswith("loss/"):
                assert ours[key] == pytest.approx(value, rel=1e-4), key
    ours, theirs = evaluated(four, 2), evaluated(one, 2)
    for key in ("eval/fid", "posterior/sigma_mean"):
        assert ours[key] == pytest.approx(theirs[key], rel=5e-3, abs=1e-3), key


def test_finished_runs_are_scored_again_in_jobs(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    sweep.write({"seed": [0, 1]}, **SHORT)
    sweep.submit()
    sweep.wait_until_done()
    arguments = ["evaluate", str(sweep.out), "--protocol", "clean", "--extractor", "domain"]
    through_slurm = [*arguments, "--executor", "slurm", "--slurm", str(sweep.file), "--out", str(sweep.out)]
    assert call(lambda: app(through_slurm, result_action="return_value")) == 0
    assert "submitted 2 runs in 2 jobs" in capfd.readouterr().err

    def is_measured() -> bool:
        found = [each for folder in sweep.folders() for each in folder.find_evaluations()]
        return sum(each.protocol_id.startswith("clean") and len(each.read()) == 3 for each in found) == 2

    sweep.wait_until(is_measured, 180, "both runs scored under clean")
    assert call(lambda: app(arguments, result_action="return_value")) == 0
    assert "evaluated 0 runs; 2 had all of it" in capfd.readouterr().err


def test_a_failure_stops_neither_its_job_nor_the_sweep_and_its_cause_is_shown(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import os\n"
        "from variants.aae import AAE\n\n\n"
        "class Raises(AAE):\n"
        "    def reconstruction_loss(self, x):\n"
        "        raise RuntimeError('wrong by 17')\n\n\n"
        "class Killed(AAE):\n"
        "    def reconstruction_loss(self, x):\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    slurm = {"min_job_minutes": 30, "runs_at_once": "auto", "cpus_per_task": 2}
    sweep.write({"variant": ["aae", "bad:Raises", "bad:Killed"]}, slurm, **SHORT)
    loaded = load_sweep(sweep.file)
    timing = Timing(epoch_seconds=5, evaluation_seconds=5, measured="probe")
    save_probe(sweep.out, "tiny", dict.fromkeys(kinds_of(loaded.configs).values(), timing))
    assert "submitted 3 runs in 1 jobs" in sweep.submit()
    job_id = sweep.job_id()
    wait_for(
        lambda: "FAILED" in sweep.cluster.output("squeue", "-h", "-t", "all", "-j", job_id, "-o", "%T"), 120, "end"
    )
    assert sweep.states() == ["done", "failed", "failed"]
    logs = "".join(log.read_text() for log in sweep.out.glob("sweeps/tiny/*/jobs/*_log.*"))
    assert "a run takes " in logs, "how many share the GPU is measured in the job"
    text = describe_failures(read_statuses(loaded, sweep.out))
    assert "1 failed: RuntimeError: wrong by 17" in text
    assert "1 failed: killed by SIGKILL, most often by the kernel for want of memory" in text
    assert "    RuntimeError: wrong by 17" in text, "the end of the log"
    assert "wrong by 17" in sweep.command("status")[1]
    status, _, error = sweep.command("submit")
    assert status == 1
    assert "2 runs failed before and are left" in error
    assert "to submit: 2 runs in 1 jobs" in sweep.command("retry", "--failed", "--dry-run")[1]


def test_one_rank_that_fails_ends_its_run_and_not_its_job(sweep: Sweep, tmp_path: Path) -> None:
    """The other rank would wait for it for half an hour; the cause is the failed one's."""
    (tmp_path / "lame.py").write_text(
        "import os\n"
        "from variants.aae import AAE\n\n\n"
        "class Lame(AAE):\n"
        "    def __init__(self, *arguments):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise RuntimeError('lame')\n"
        "        super().__init__(*arguments)\n"
    )
    sweep.write({"variant": ["lame:Lame", "aae"]}, {"gpus_per_node": 2, "min_job_minutes": 30}, **SHORT)
    loaded = load_sweep(sweep.file)
    timing = Timing(epoch_seconds=5, evaluation_seconds=5, measured="probe")
    save_probe(sweep.out, "tiny", dict.fromkeys(kinds_of(loaded.configs).values(), timing))
    assert "submitted 2 runs in 1 jobs" in sweep.submit()
    wait_for(lambda: sweep.states() == ["failed", "done"], 120, "one failed, one done")
    assert "RuntimeError: lame (rank 1)" in sweep.status()[0]["reason"]


def test_cancelled_runs_save_themselves_and_a_retry_resumes_them(sweep: Sweep, tmp_path: Path) -> None:
    alone = train_alone(tmp_path / "alone")
    sweep.write({"seed": [0]})
    sweep.submit()
    folder = sweep.wait_for_epoch(5)
    assert sweep.status()[0]["state"] == "running"
    assert sweep.command("cancel")[1] == "cancelled 1 jobs\n"
    wait_for(lambda: folder.read_status()["state"] == "queued", 60, "the run saved")
    wait_for(lambda: sweep.states() == ["stale"], 60, "the job ended")
    assert "SIGTERM" in sweep.status()[0]["reason"]
    status, _, error = sweep.command("retry", "--stale")
    assert status == 0, error
    sweep.wait_until_done()
    assert alone.wait(PATIENCE) == 0
    assert_same_run(folder, only_folder(tmp_path / "alone"))


def test_status_needs_no_accounting_and_no_slurm(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """squeue alone knows the job; where it does not answer either, the run folders are believed."""
    sweep.write({"seed": [0]}, epochs=1000)
    sweep.submit()
    sweep.wait_for_epoch(2)
    assert sweep.cluster.output("sacct") == "", "there is no accounting"
    (status,) = sweep.status()
    job_id = status["job"]
    assert status["state"] == "running"
    assert status["images_per_second"] > 0
    assert status["seconds_left"] > 0
    assert set(read_jobs({job_id, "999999"}) or ()) == {job_id}
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "")
        assert read_jobs({job_id}) is None
        assert sweep.states() == ["running"]
    assert sweep.command("cancel")[0] == 0


def test_tasks_that_are_not_those_asked_for_stop_the_job_with_the_reason(sweep: Sweep) -> None:
    sweep.write({"seed": [0]}, {"gpus_per_node": 2, "sbatch": {"ntasks_per_node": 1}}, **SHORT)
    sweep.submit()
    wait_for(lambda: sweep.states() == ["stale"], 60, "the job ended")
    text = describe_failures(read_statuses(load_sweep(sweep.file), sweep.out))
    assert "its job ended FAILED" in text
    assert "SLURM started 1 tasks, where the sweep asks for 2" in text


class TestWhatSlurmRefuses:
    def test_a_partition_that_does_not_exist(self, sweep: Sweep) -> None:
        sweep.write({"seed": [0]}, {"partition": "nope"}, **SHORT)
        before = sweep.queue("%i")
        status, _, error = sweep.command("submit")
        assert status == 2
        assert "invalid partition specified: nope" in error
        assert error.count("\n") == 1
        assert sweep.queue("%i") == before
        assert not sweep.out.exists()

    def test_a_second_array_takes_the_first_back(
        self, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sbatch = shutil.which("sbatch")
        (tmp_path / "bin").mkdir()
        script = f'#!/bin/bash\n[ -e "{tmp_path}/once" ] && echo "sbatch: error: too many jobs" >&2 && exit 1\n'
        (tmp_path / "bin/sbatch").write_text(f'{script}touch "{tmp_path}/once"\nexec {sbatch} --hold "$@"\n')
        (tmp_path / "bin/sbatch").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
        monkeypatch.setattr("slurm.submit.read_array_size", lambda: 2)
        sweep.write({"seed": [0, 1, 2]}, **SHORT)
        status, _, error = sweep.command("submit")
        assert status == 2
        assert "SLURM refuses the jobs: too many jobs; nothing was submitted" in error
        wait_for(lambda: not sweep.cluster.output("squeue", "-h"), 60, "the first array is cancelled")
        assert not sweep.out.exists()


def test_a_run_keeps_its_lock_from_two_jobs(sweep: Sweep) -> None:
    """Two submissions that know nothing of one another, as after a lost file, train each run once."""
    sweep.write({"seed": [0]})
    sweep.submit()
    sweep.wait_for_epoch(2)
    first = sweep.job_id()
    for file in sweep.out.glob("sweeps/tiny/*/submission.json"):
        file.unlink()
    folder = RunFolder(sweep.folders()[0].path)
    status = folder.read_status()

    def submit_again() -> bool:
        """The first job may say that it is running between the two lines."""
        folder.write_status("queued", **{key: status[key] for key in ("epoch", "epochs", "interruptions")})
        return "submitted 1 runs" in sweep.submit()

    wait_for(submit_again, 60, "a second job")
    second = sweep.job_id()
    assert second != first
    sweep.wait_until_done()
    ended = ("squeue", "-h", "-t", "all", "-j", f"{first},{second}", "-o", "%T")
    wait_for(lambda: sweep.cluster.output(*ended).split() == ["COMPLETED"] * 2, 60, "both jobs ended well")
    records = folder.read_records()
    assert [record["epoch"] for record in records] == list(range(len(records)))
    assert len(folder.read_environment()["launches"]) == 1
