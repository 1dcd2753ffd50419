"""What stands before each process of a job: a launcher, a container. And what follows when all jobs have ended.

There is no Apptainer here: a script of its name, on the jobs' PATH, checks what it is given and runs the rest. On a
real one nothing of this has run.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaebench import app
from harness.commands import call
from harness.errors import InputError
from harness.record import RunFolder
from slurm.request import build_options, build_python
from tests.harness.test_train import ROOT
from tests.slurm.conftest import RUN, Sweep

SHORT: dict[str, Any] = {"epochs": 2, "eval_every": 2}
RECORDING = """#!/bin/bash
printf '%s\\n' "$*" >> "{record}"
{check}
exec "$@"
"""
# What `apptainer exec [--nv] [--bind FOLDER]... --env X=Y IMAGE COMMAND...` takes; python3 is then the image's.
CHECKED = """
[ "$1" = exec ] && shift || exit 90
[ "$1" = --nv ] && shift || exit 91
while [ "$1" = --bind ]; do [ -d "$2" ] && shift 2 || exit 92; done
[ "$1" = --env ] && export "$2" && shift 2 || exit 93
[ "$(cat "$1")" = an-image ] && shift || exit 94
[ "$1" = python3 ] && shift && set -- "{python}" "$@" || exit 95
"""


def write_program(path: Path, record: Path, check: str = "") -> Path:
    path.write_text(RECORDING.format(record=record, check=check.format(python=sys.executable)))
    path.chmod(0o755)
    return path


def test_a_container_has_the_probe_the_runs_and_the_report_that_a_job_writes_in_the_end(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.submit.WAIT_SECONDS", 1)
    record, programs = tmp_path / "record.txt", tmp_path / "programs"
    programs.mkdir()
    write_program(programs / "apptainer", record, CHECKED)
    (tmp_path / "image.sif").write_text("an-image")
    sweep.out.mkdir()
    slurm = {"container": "image.sif", "then": "report", "setup": [f"export PATH={programs}:$PATH"]}
    sweep.write({"seed": [0]}, slurm, **SHORT)
    status, plan, error = sweep.command("plan", "--probe")
    assert status == 0, error
    assert "each process: apptainer exec --nv --bind" in plan
    said = sweep.submit("--wait")
    report = sweep.out / "sweeps" / "tiny" / "report" / "report.html"
    assert f"then writes {report}" in said
    assert sweep.states() == ["done"]
    assert sweep.folders()[0].path.name in report.read_text()
    modules = [shlex.split(line)[shlex.split(line).index("-m") + 1] for line in record.read_text().splitlines()]
    assert modules == ["slurm.estimate", "harness.train", "aaebench"]
    assert f"--bind {sweep.out}" in record.read_text().splitlines()[1]


def test_a_launcher_stands_before_each_process_and_before_those_that_score_again(
    sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher = write_program(tmp_path / "launcher", record := tmp_path / "record.txt")
    sweep.write({"seed": [0]}, {"launcher": [str(launcher)], "tasks_per_node": 2}, **SHORT)
    sweep.submit()
    sweep.wait_until_done()
    lines = record.read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{sys.executable} -m harness.train --config ") for line in lines)
    arguments = ["evaluate", str(sweep.out), "--protocol", "clean", "--extractor", "domain", "--executor", "slurm"]
    submit = [*arguments, "--slurm", str(sweep.file), "--out", str(sweep.out)]
    assert call(lambda: app(submit, result_action="return_value")) == 0, capfd.readouterr().err
    folder = sweep.folders()[0]
    sweep.wait_until(lambda: len(folder.find_evaluations()) == 2, 120, "scored under clean")
    assert f"{sys.executable} -m slurm.evaluations" in record.read_text()


def test_the_report_waits_for_a_job_that_is_requeued_and_tells_of_a_run_that_failed(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.submit.WAIT_SECONDS", 1)
    (tmp_path / "wrong.py").write_text(
        "from variants.aae import AAE\n\n\n"
        "class Raises(AAE):\n"
        "    def reconstruction_loss(self, x):\n"
        "        raise RuntimeError('wrong by 17')\n"
    )
    sweep.write({"variant": ["aae", "wrong:Raises"]}, {"then": "report"}, epochs=20, eval_every=20)
    sweep.submit()
    report = sweep.out / "sweeps" / "tiny" / "report" / "report.html"
    folder = RunFolder(sweep.out / sweep.status()[0]["run_id"])
    sweep.wait_until(lambda: len(folder.read_records()) > 2, 120, "an epoch")
    sweep.cluster.output("scancel", "--signal=USR2", sweep.job_id())
    sweep.wait_until(report.exists, 180, "the report")
    assert folder.read_status()["interruptions"] == 1
    assert sweep.states() == ["done", "failed"]
    assert "wrong by 17" in report.read_text()
    status, _, error = sweep.command("submit", "--wait")
    assert status == 1
    assert "wrong by 17" in error


def test_cancelling_a_sweep_cancels_its_report(sweep: Sweep) -> None:
    sweep.write({"seed": [0]}, {"then": "report", "sbatch": {"hold": True}}, **SHORT)
    sweep.submit()
    assert "afterany" in " ".join(sweep.queue("%E"))
    assert sweep.command("cancel")[1] == "cancelled 2 jobs\n"
    assert sweep.states() == ["stale"]


def test_words_come_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "image.sif").touch()
    options = build_options(
        {"container": "image.sif", "launcher": ["numactl", "--localalloc"]}, str(tmp_path / "x.yaml")
    )
    words = build_python(options, [tmp_path, tmp_path / "nowhere"])
    image = str(tmp_path / "image.sif")
    environment = ["--env", "PYTHONNOUSERSITE=1"]
    assert words == [
        *("numactl", "--localalloc", "apptainer", "exec", "--nv", "--bind", str(tmp_path)),
        *(*environment, image, "python3"),
    ]
    assert build_python(build_options({}, "x.yaml"), [tmp_path]) == [sys.executable]
    given = {"container": "docker://ghcr.io/x/y", "python": "/opt/bin/python", "gpus_per_node": 0}
    words = build_python(build_options(given, "x.yaml"), [])
    assert words == ["apptainer", "exec", *environment, "docker://ghcr.io/x/y", "/opt/bin/python"]


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"container": "nowhere.sif"}, "slurm.container = nowhere.sif: there is no such image"),
        ({"launcher": "numactl"}, "slurm.launcher = 'numactl': Input should be a valid list"),
        ({"then": "celebrate"}, "slurm.then = 'celebrate': Input should be 'report'"),
    ],
)
def test_a_block_that_would_not_work_is_refused(block: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_options(block, "tiny.yaml")


def test_a_sweep_that_runs_here_has_its_report_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    content = {"grid": {"seed": [0]}, "fixed": RUN | SHORT, "slurm": {"then": "report"}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    submit = ["sweep", "submit", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "runs"), "--executor", "local"]
    assert call(lambda: app(submit, result_action="return_value")) == 0, capfd.readouterr().err
    assert (tmp_path / "runs/sweeps/tiny/report/report.html").is_file()
