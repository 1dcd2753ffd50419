"""What `aaebench new` writes works as it is, and hides nothing that is there."""

import subprocess
import sys
from pathlib import Path

import pytest

from aaebench import app
from harness.commands import call
from tests.harness.test_train import ROOT


def new_variant(*arguments: str) -> int:
    return call(lambda: app(["new", "variant", *arguments], result_action="return_value"))


def test_a_new_variant_passes_its_own_tests_and_the_houses_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new_variant("my_idea", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr()
    files = [Path(line) for line in printed.out.splitlines()]
    assert files == [tmp_path / "my_idea.py", tmp_path / "test_my_idea.py"]
    assert "--variant my_idea:MyIdea" in printed.err
    for check in (["ruff", "check"], ["ruff", "format", "--check"], ["pytest", "-q", "-p", "no:cacheprovider"]):
        command = [
            sys.executable,
            "-m",
            *check,
            *(("--config", str(ROOT / "pyproject.toml")) if "ruff" in check else ()),
        ]
        ended = subprocess.run([*command, *map(str, files)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    assert new_variant("mine", "--out", str(tmp_path)) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"test_mine.py": "mine"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aae", "is a variant of aaebench"),
        ("json", "is the name of a module, which would be hidden"),
        ("MyIdea", "in lower case"),
        ("my-idea", "must be a Python module's name"),
        ("import", "must be a Python module's name"),
        ("../up", "must be a Python module's name"),
    ],
)
def test_a_name_that_would_not_work_is_refused(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new_variant(name, "--out", str(tmp_path)) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_variant("mine", "--out", str(tmp_path / "nowhere")) == 2
    assert "nowhere: No such file or directory" in capsys.readouterr().err
