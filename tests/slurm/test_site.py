"""A site's own rules: its defaults for sbatch, its limits, what it forbids. On a real SLURM."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from slurm.request import build_flags, build_options, read_site
from tests.harness.test_train import ROOT
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import Sweep

SHORT: dict[str, Any] = {"epochs": 2, "eval_every": 2}
HELD = {"sbatch": {"hold": True}}


class TestWhatTheSiteHasSetForSbatch:
    def test_counts_where_the_sweep_is_silent_and_the_plan_shows_it(
        self, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
        monkeypatch.setenv("SBATCH_TIMELIMIT", "0:30:00")
        sweep.write({"seed": [0]}, HELD | {"timeout_min": None})
        _, plan, _ = sweep.command("plan")
        assert "slurm.account = physics, from SBATCH_ACCOUNT" in plan
        assert "#SBATCH --account=physics" in plan
        assert "#SBATCH --time=30" in plan
        sweep.submit()
        job_id = sweep.job_id()
        assert sweep.cluster.output("squeue", "-h", "-j", job_id, "-o", "%a|%l") == "physics|30:00"
        sweep.command("cancel")

    def test_gives_way_to_the_sweep(self, sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SBATCH_PARTITION", "nope")
        sweep.write({"seed": [0]}, HELD)
        status, _, error = sweep.command("submit")
        assert (status, "invalid partition specified: nope" in error) == (2, True)
        sweep.write({"seed": [0]}, HELD | {"partition": "test"})
        sweep.submit()
        sweep.command("cancel")

    @pytest.mark.parametrize(
        ("variable", "value", "flag", "asked"),
        [
            ("SBATCH_QOS", "long", "qos", "long"),
            ("SBATCH_CONSTRAINT", "a100", "constraint", "a100"),
            ("SBATCH_RESERVATION", "course", "reservation", "course"),
            ("SBATCH_EXCLUSIVE", "", "exclusive", True),
            ("SBATCH_EXPORT", "NONE", "export", "NONE"),
            ("SBATCH_MEM_PER_CPU", "4G", "mem-per-cpu", "4G"),
            ("SBATCH_TIMELIMIT", "90", "time", 90),
            ("SBATCH_TIMELIMIT", "1-12", "time", 36 * 60),
            ("SBATCH_TIMELIMIT", "2:30", "time", 3),
            ("SBATCH_TIMELIMIT", "1-2:30", "time", 26 * 60 + 30),
        ],
    )
    def test_is_an_option_like_those_of_the_sweep(
        self, variable: str, value: str, flag: str, asked: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, value)
        assert build_flags(build_options({}, "tiny.yaml"))[flag] == asked

    def test_of_memory_one_word_is_enough(self) -> None:
        environment = {"SBATCH_MEM_PER_NODE": "8G", "SBATCH_QOS": ""}
        assert read_site({"mem_gb": 4}, environment) == {}
        assert read_site({"sbatch": {"mem_per_cpu": "1G"}}, environment) == {}
        assert read_site({}, environment) == {"SBATCH_MEM_PER_NODE": ("sbatch.mem", "8G")}

    def test_a_time_limit_that_is_none_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SBATCH_TIMELIMIT", "soon")
        with pytest.raises(InputError, match="SBATCH_TIMELIMIT = soon is no time limit"):
            build_options({}, "tiny.yaml")


def test_a_job_without_the_login_shells_environment_trains(sweep: Sweep) -> None:
    """sbatch --export=NONE would hand its tasks nothing of what the script exports; probes have no such script."""
    sweep.write({"seed": [0]}, {"sbatch": {"export": "NONE"}}, **SHORT)
    assert "GPU-hours (probe)" in sweep.command("plan", "--probe")[1]
    sweep.submit()
    sweep.wait_until_done()


def test_threads_follow_the_task_and_not_the_login_shell(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    sweep.write({"seed": [0]}, {"setup": [], "cpus_per_task": 2}, **SHORT)
    sweep.submit()
    sweep.wait_until_done()
    assert sweep.folders()[0].read_environment()["threads"] == 2


def test_two_tasks_of_srun_do_not_each_train_the_same_run(sweep: Sweep, tmp_path: Path) -> None:
    command = ["srun", "--ntasks=2", sys.executable, "-m", "harness.train", "--set", "preset=demo"]
    answer = subprocess.run(
        [*command, "--out", str(tmp_path / "alone")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 2
    assert "SLURM_STEP_NUM_TASKS = 2 says that srun started 2 of these" in answer.stderr
    assert not (tmp_path / "alone").exists()


def test_where_requeueing_is_forbidden_the_status_says_so_and_the_next_submit_goes_on(sweep: Sweep) -> None:
    sweep.write({"seed": [0]})
    sweep.submit()
    folder = sweep.wait_for_epoch(2)
    job_id = sweep.job_id()
    sweep.cluster.output("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    sweep.cluster.output("scancel", "--signal=USR2", job_id)
    wait_for(lambda: sweep.states() == ["stale"], 60, "the job ended")
    assert "interrupted by SIGUSR2; SLURM does not let this job requeue itself" in sweep.status()[0]["reason"]
    assert "does not let this job requeue itself" in sweep.command("status")[1]
    epoch = folder.read_status()["epoch"]
    sweep.submit()
    sweep.wait_until_done()
    assert [launch["epoch"] for launch in folder.read_environment()["launches"]] == [0, epoch]


class TestLimits:
    def test_of_the_user_submit_the_rest_later(self, sweep: Sweep) -> None:
        sweep.write({"seed": [0, 1, 2, 3, 4]}, HELD, **SHORT)
        said = sweep.submit("--limit", "2")
        assert "submitted 2 runs in 2 jobs" in said
        assert "3 runs are left for the next sweep submit: --limit 2" in said
        assert sweep.states() == ["pending"] * 2 + ["missing"] * 3
        assert "submitted 3 runs in 3 jobs" in sweep.submit()
        assert sweep.states() == ["pending"] * 5
        assert sweep.command("cancel")[1] == "cancelled 5 jobs\n"
        assert sweep.command("submit", "--limit", "0")[0] == 2

    def test_of_the_controller_submit_the_rest_later(
        self, small_cluster: Cluster, build_sweep: Callable[[Cluster], Sweep]
    ) -> None:
        """MaxJobCount = 6 is room for five; a sixth would have sbatch wait for minutes."""
        sweep = build_sweep(small_cluster)
        sweep.write({"seed": [0, 1, 2, 3, 4, 5, 6]}, HELD, **SHORT)
        assert "SLURM takes 5 more jobs at this moment (MaxJobCount)" in sweep.command("plan")[1]
        said = sweep.submit()
        assert "submitted 5 runs in 5 jobs" in said
        assert "2 runs are left for the next sweep submit: SLURM takes 5 more jobs at this moment" in said
        status, _, error = sweep.command("submit")
        assert (status, "nothing was submitted: submit again when some jobs have ended" in error) == (2, True)
        sweep.cluster.output("scancel", *[run["job"] for run in sweep.status()[:2]])
        wait_for(lambda: len(sweep.queue()) == 3, 60, "the cancelled jobs are forgotten")
        sweep.submit("--limit", "1")
        assert sweep.command("cancel")[1] == "cancelled 4 jobs\n"

    def test_of_an_account_submit_the_rest_later(
        self, accounting_cluster: Cluster, build_sweep: Callable[[Cluster], Sweep]
    ) -> None:
        """SLURM refuses an array whole: smaller ones find what fits."""
        sweep = build_sweep(accounting_cluster)
        user = ("where", "account=physics", "set", "MaxSubmitJobs=5")
        sweep.cluster.output("sacctmgr", "--immediate", "modify", "user", *user)
        known = ("scontrol", "show", "assoc_mgr", "flags=assoc")
        wait_for(lambda: "MaxSubmitJobs=5(" in sweep.cluster.output(*known), 60, "the limit")
        sweep.write({"seed": [0, 1, 2, 3, 4, 5, 6]}, HELD | {"account": "physics"}, **SHORT)
        said = sweep.submit()
        assert "submitted 5 runs in 5 jobs" in said
        assert "2 runs are left for the next sweep submit: SLURM says: " in said
        assert "job submit limit" in said
        assert sweep.states() == ["pending"] * 5 + ["missing"] * 2
        assert sweep.command("cancel")[1] == "cancelled 5 jobs\n"
        sweep.cluster.output("sacctmgr", "--immediate", "modify", "user", *user[:3], "MaxSubmitJobs=-1")

    def test_a_cluster_without_arrays_runs_each_job_on_its_own(
        self, small_cluster: Cluster, build_sweep: Callable[[Cluster], Sweep]
    ) -> None:
        """MaxArraySize = 1."""
        sweep = build_sweep(small_cluster)
        wait_for(lambda: not sweep.queue(), 60, "an empty cluster")
        sweep.write({"seed": [0, 1]}, **SHORT)
        assert "submitted 2 runs in 2 jobs" in sweep.submit()
        assert all(job_id.isdigit() for job_id in sweep.queue("%i"))
        sweep.wait_until_done()


def test_it_is_said_that_sbatch_waits(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    sbatch = sweep.cluster.output("which", "sbatch")
    (tmp_path / "bin/sbatch").write_text(f'#!/bin/bash\nsleep 1\nexec {sbatch} "$@"\n')
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    monkeypatch.setattr("slurm.submit.PATIENCE_SECONDS", 0.2)
    sweep.write({"seed": [0]}, HELD, **SHORT)
    assert "sbatch has not answered yet" in sweep.submit()
    sweep.command("cancel")
