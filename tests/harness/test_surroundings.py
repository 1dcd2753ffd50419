"""Whatever surrounds a command, as its locale, its user, or a full device, it ends in a result or an error."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from tests.conftest import require
from tests.harness.data.test_staging import write_images
from tests.harness.evaluation.test_extractors import MeanColour, save_script
from tests.harness.test_train import ROOT, SHORT, only_folder, run


def start(*command: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        check=False,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_a_full_device_behind_standard_output_is_an_error() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        done = start(
            sys.executable, "-m", "aaebench", "stage", "--dataset", "digits", "--image-size", "8", stdout=full.fileno()
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_text_is_utf8_whatever_the_locale_and_other_names_leave_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xc3\xa9-\xff")
    folder.mkdir()
    command = (sys.executable, "-m", "aaebench", "stage", "--dataset", "digits", "--image-size", "8")
    done = start(*command, AAEBENCH_CACHE=str(folder), PYTHONIOENCODING="latin-1", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(os.fsencode(folder))


def test_a_user_without_an_entry_and_a_home_gets_a_result() -> None:
    require(os.geteuid() == 0, "only root can be somebody else")
    nobody = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
    code = "from harness.data.staging import load_training_set; print(len(load_training_set('digits', 8)))"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    environment.pop("AAEBENCH_CACHE")
    done = subprocess.run(
        [*nobody, sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=environment,
    )
    is_readable = "Permission denied" not in done.stderr or bool(done.stdout)
    require(is_readable, "the code lies where another user cannot read it")
    assert done.stdout == "1797\n"
    assert "going on without storing it" in done.stderr


def test_names_of_more_than_255_characters_are_bad_input(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 300))
    folder = str(write_images(tmp_path / "faces"))
    for command in (
        ["stage", "--dataset", "faces", "--from", long],
        ["stage", "--from-bundle", long],
        ["score", "--real", long, "--fake", folder, "--extractor", "domain-digits"],
        ["score", "--real", folder, "--fake", f"{long}.npz", "--extractor", "domain-digits"],
    ):
        assert call(lambda command=command: app(command, result_action="return_value")) == 2
        assert "xxx" in capfd.readouterr().err


def test_an_extractor_without_classes_trains_collects_and_exports(tmp_path: Path) -> None:
    network = save_script(MeanColour(), tmp_path / "colour.pt")
    out = tmp_path / "runs"
    assert run(out, *SHORT, "--epochs", "1", "--set", f"extractor={network}") == 0
    for command in (
        ["collect", str(out), "--out", str(tmp_path / "tables")],
        ["report", str(out), "--out", str(tmp_path / "report")],
    ):
        assert call(lambda command=command: app(command, result_action="return_value")) == 0
    row = pd.read_csv(tmp_path / "tables" / "runs.csv").query("epoch == 1 and sampler == 'prior'").iloc[0]
    assert row["fid"] >= 0
    assert pd.isna(row["inception_score"])
    command = ["export", str(only_folder(out).path), "--out", str(tmp_path / "model")]
    assert call(lambda: app(command, result_action="return_value")) == 0
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "FID" in card
    assert "Inception" not in card.partition("## Posterior")[0].partition("## Scores")[2]
