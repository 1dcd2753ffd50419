"""Doctor finds what is wrong, says what to do, and looks inside a job too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import slurm.doctor
from aaebench import app
from harness.commands import call
from slurm.doctor import CheckResult, check_folder, check_gpus, check_launcher, check_resolves, check_versions
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
