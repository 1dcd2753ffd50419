"""Doctor finds what is wrong, says what to do, and looks inside a job too."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLock
from packaging.requirements import Requirement

import slurm.doctor
from aaebench import app
from harness.commands import call
from slurm.doctor import (
    CheckResult,
    check_folder,
    check_gpus,
    check_launcher,
    check_resolves,
    check_run_folders,
    check_versions,
    is_usable,
)
from slurm.sweep import SHIPPED, load_sweep
from tests.slurm.cluster import NODES, Cluster, wait_for
from tests.slurm.conftest import Sweep


def doctor(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capfd.readouterr()
    status = call(lambda: app(["doctor", *arguments, "--json"], result_action="return_value"))
    return status, json.loads(capfd.readouterr().out)


def test_a_machine_that_can_run_everything_is_found_well(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, findings = doctor(capfd, "demo", "--out", str(tmp_path / "runs"))
    problems = [finding for finding in findings if finding["level"] == "problem"]
    assert status == bool(problems)
    assert {finding["check"] for finding in problems} <= {"run folders", "cache"}, "but for a full disk"
    checked = {finding["check"] for finding in findings}
    assert checked >= {"versions", "GPU", "accelerate", "run folders", "cache", "host names", "data", "SLURM"}
    assert not (tmp_path / "runs").exists()


def test_versions_that_do_not_fit_are_named_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real = slurm.doctor.distribution

    class Demanding:
        requires = ("torch<1", "numpy>=1")

    monkeypatch.setattr(slurm.doctor, "distribution", lambda name: Demanding if name == "aaebench" else real(name))
    (problem,) = [finding for finding in check_versions() if finding.level == "problem"]
    assert "aaebench needs torch<1, there is " in problem.what
    assert problem.remedy == "python -m pip install 'torch<1'"
    assert Requirement("torch<1").specifier


def test_a_launcher_that_starts_one_process_in_silence_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate takes MULTI_CPU, starts a single process and says nothing."""
    file = tmp_path / "accelerate/default_config.yaml"
    file.parent.mkdir()
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 2\nnum_machines: 1\n"
        "machine_rank: 0\nuse_cpu: true\nmixed_precision: bf16\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = (
        "import json; from slurm.doctor import check_launcher; print(json.dumps([vars(f) for f in check_launcher()]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    problem, warning = (CheckResult(**finding) for finding in json.loads(printed))
    assert problem.level == "problem"
    assert "asks for 2 processes and starts fewer, with which no run starts" in problem.what
    assert "ACCELERATE_USE_CPU=true" in problem.remedy
    assert "mixed_precision bf16" in warning.what


def test_without_a_launcher_configuration_there_is_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(tmp_path / "none.yaml"))
    (finding,) = check_launcher()
    assert finding.level == "ok"


def test_a_gpu_that_was_asked_for_and_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    (wanted,), (unwanted,) = check_gpus(True), check_gpus(False)
    assert (wanted.level, unwanted.level) == ("problem", "ok")
    assert "gpus_per_node: 0" in wanted.remedy


def test_each_folder_that_a_sweep_uses_is_tried(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("cache/data", "cache/statistics", "runs/sweeps/demo"):
        (tmp_path / folder).mkdir(parents=True)
    tried: list[Path] = []
    monkeypatch.setattr("slurm.doctor.check_folder", lambda name, folder: tried.append(folder) or iter(()))
    doctor(capfd, "demo", "--out", str(tmp_path / "runs"))
    used = ("runs", "runs/sweeps/demo", "cache", "cache/data", "cache/statistics")
    assert sorted(tried) == sorted([*(tmp_path / folder for folder in used), Path(tempfile.gettempdir())])


class TestAFolder:
    def test_is_written_renamed_mapped_and_locked_in_and_left_as_it_was(self, tmp_path: Path) -> None:
        (result,) = check_folder("cache", tmp_path)
        assert f"{tmp_path}: writes, renames, maps, locks; " in result.what
        assert list(tmp_path.iterdir()) == []

    def test_that_maps_no_files_is_a_problem(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on some network file systems: safetensors files are read through maps."""

        def refuse(*arguments: Any, **options: Any) -> None:
            raise OSError(errno.ENODEV, "No such device")

        monkeypatch.setattr("slurm.doctor.mmap.mmap", refuse)
        (result,) = check_folder("cache", tmp_path)
        assert (result.level, "No such device" in result.what) == ("problem", True)
        assert "AAEBENCH_CACHE" in result.remedy

    def test_whose_locks_hold_nobody_is_a_problem(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("slurm.doctor.FileLock", SoftFileLock)  # which flock, in the other process, does not see
        (problem, _) = check_folder("cache", tmp_path)
        assert "two processes get the same lock" in problem.what

    def test_of_a_run_that_is_anothers_is_a_problem(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sweep = load_sweep(SHIPPED / "demo.yaml")
        (tmp_path / sweep.configs[3].run_id).mkdir()
        assert list(check_run_folders(sweep, tmp_path)) == []
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        (problem,) = check_run_folders(sweep, tmp_path)
        assert f"1 run folders cannot be written in, as {tmp_path / sweep.configs[3].run_id} of " in problem.what


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        *((state, True) for state in ("idle", "mixed", "allocated", "idle~", "idle#", "mixed-", "idle%", "planned")),
        *((state, False) for state in ("idle*", "mixed*", "down", "down*", "drained", "draining", "idle$", "idle@")),
    ],
)
def test_a_node_works_unless_it_does_not_answer_or_is_not_given_out(state: str, usable: bool) -> None:
    assert is_usable(state) == usable


def test_nodes_that_are_powered_down_work_and_those_that_do_not_answer_do_not(
    small_cluster: Cluster, build_sweep: Callable[[Cluster], Sweep], capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = build_sweep(small_cluster)
    sweep.write({"seed": [0]}, {"nodes": 3}, batch_size=15)

    def of_slurm() -> list[tuple[str, str]]:
        _, results = doctor(capfd, str(sweep.file), "--out", str(sweep.out))
        return [(each["level"], each["what"]) for each in results if each["check"] == "SLURM"]

    small_cluster.output("scontrol", "update", f"NodeName={NODES[2]}", "State=POWER_DOWN")
    wait_for(lambda: "idle~" in small_cluster.output("sinfo", "-h", "-o", "%T").split(), 60, "a node is powered down")
    ((level, what),) = of_slurm()
    assert (level, "1 idle~" in what) == ("ok", True)
    small_cluster.daemons[f"slurmd-{NODES[1]}"].kill()
    small_cluster.daemons[f"slurmd-{NODES[1]}"].wait()
    try:
        wait_for(
            lambda: "*" in small_cluster.output("sinfo", "-h", "-n", NODES[1], "-o", "%T"), 120, "a node is silent"
        )
        ((level, what),) = of_slurm()
        assert (level, "too few working nodes" in what) == ("problem", True)
    finally:
        small_cluster.start_node(NODES[1])
        small_cluster.output("scontrol", "update", f"NodeName={NODES[2]}", "State=RESUME")


def test_a_folder_that_cannot_be_written_and_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (finding,) = check_folder("run folders", file)
    assert finding.level == "problem"
    assert "--out" in finding.remedy
    (finding,) = check_resolves(["localhost", "no-such-host.invalid"])
    assert finding.what == "cannot be looked up here: no-such-host.invalid"


def test_data_that_is_not_staged_is_a_problem(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], empty_cache: Path
) -> None:
    status, findings = doctor(capfd, "vae_gan", "--out", str(tmp_path))
    assert status == 1
    data = [finding for finding in findings if finding["check"] == "data"]
    assert "celeba at 32 px is not staged" in data[0]["what"]
    assert "aaebench stage --dataset celeba --image-size 32" in data[0]["remedy"]
    assert any("Inception" in finding["what"] for finding in data)


def test_inside_a_job_files_locks_and_ranks_meet(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    """The fake GPUs are the one problem: SLURM hands them out, and there is no driver."""
    sweep.write({"seed": [0]}, {"nodes": 2})
    status, findings = doctor(capfd, str(sweep.file), "--slurm", "--out", str(sweep.out))
    inside = [finding for finding in findings if finding["host"]]
    assert status == 1
    assert {finding["host"].partition(",")[0] for finding in inside} == {"127.0.0.1", "127.0.0.2"}
    levels = {(finding["check"], finding["level"]) for finding in inside}
    assert levels >= {("shared file system", "ok"), ("rendezvous", "ok"), ("versions", "ok"), ("GPU", "problem")}
    assert "2 of 2 tasks met" in next(f["what"] for f in inside if f["check"] == "rendezvous")
    assert any("partition test: 3 idle" in f["what"] for f in findings if f["check"] == "SLURM")
    assert not sweep.out.exists()


def test_a_partition_without_enough_nodes_is_a_problem(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    for changed, words in (({"nodes": 4}, "too few working nodes"), ({"partition": "nope"}, "no partition nope")):
        sweep.write({"seed": [0]}, changed)
        _, findings = doctor(capfd, str(sweep.file), "--out", str(sweep.out))
        assert any(words in finding["what"] for finding in findings if finding["level"] == "problem")


def test_doctor_asks_for_slurm_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))  # noqa: PTH120
    assert call(lambda: app(["doctor", "--slurm"], result_action="return_value")) == 2
