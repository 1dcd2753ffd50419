"""Fixtures of the tests of what is trained."""

from pathlib import Path

import pytest

from harness.record import RunFolder
from tests.harness.launch.test_processes import finish, launch
from tests.harness.test_train import SHORT, only_folder, run
from tests.harness.trained import train_briefly


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of eight epochs."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert run(out, *SHORT, "--epochs", "8", "--seed", "0") == 0
    return only_folder(out)


@pytest.fixture(scope="session")
def uninterrupted_pair(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of eight epochs on two processes."""
    out = tmp_path_factory.mktemp("pair")
    finish(launch(out, 2, "-m", "harness.train", *SHORT, "--epochs", "8"))
    return only_folder(out)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs, the last of them evaluated."""
    out = tmp_path_factory.mktemp("finished")
    assert run(out, *SHORT, "--epochs", "2") == 0
    return only_folder(out).path


@pytest.fixture(scope="session")
def brief_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped after three steps."""
    return train_briefly(tmp_path_factory.mktemp("brief"))[0].path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
