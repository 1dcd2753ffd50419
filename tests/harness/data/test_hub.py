"""Data sets of the hub, by its own library, which takes a repository on the disk as it takes one of the hub."""

from pathlib import Path

import pytest

import harness.data.hub
from aaebench import app
from harness.commands import call
from harness.data.staging import load_test_images, load_training_set
from tests.harness.data.test_layouts import GREYS, hub_table, labels, png, reds


def stage(*arguments: object) -> int:
    command = ["stage", "--dataset", "mine", "--image-size", "8", *map(str, arguments)]
    return call(lambda: app(command, result_action="return_value"))


@pytest.fixture
def repository(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets.config  # noqa: PLC0415 (slow to import)
    import pyarrow.parquet as pq  # noqa: PLC0415

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "owner" / "name"
    (folder / "data").mkdir(parents=True)
    half = len(GREYS) // 2
    pq.write_table(hub_table(GREYS, [0, 1, 0, 1, 0, 1], ["cat", "dog"]), folder / "data" / "train-00000.parquet")
    pq.write_table(hub_table(GREYS[:half], [1, 0, 1], ["cat", "dog"]), folder / "data" / "test-00000.parquet")
    return folder


def test_a_repository_is_staged_with_its_labels_and_both_splits(repository: Path) -> None:
    assert stage("--hub", repository) == 0
    data = load_training_set("mine", 8)
    assert reds(data) == GREYS
    assert labels(data) == [0, 1, 0, 1, 0, 1]
    assert stage("--hub", repository, "--test") == 0
    test = load_test_images("mine", 8)
    assert test is not None
    assert test[0]["images"][:, 0, 0, 0].tolist() == GREYS[:3]


def test_what_was_brought_once_needs_no_internet(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage("--hub", repository) == 0
    for file in (repository / "data").iterdir():
        file.unlink()
    assert stage("--hub", repository, "--test") == 0, "from the cache"


@pytest.mark.usefixtures("empty_cache")
class TestBadInput:
    def test_a_repository_that_cannot_be_had(
        self, repository: Path, empty_cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (repository / "data" / "train-00000.parquet").write_bytes(png(3))
        assert stage("--hub", repository) == 2
        assert "from the hub" in (error := capsys.readouterr().err)
        assert "--from FOLDER" in error
        assert not list((empty_cache / "downloads").glob("[!.]*")), "nothing half-brought is left"

    def test_beside_from(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert stage("--hub", "a/b", "--from", ".") == 2
        assert "takes the place of --from" in capsys.readouterr().err

    def test_where_the_library_is_missing_the_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(harness.data.hub, "find_spec", lambda name: None)
        assert stage("--hub", "a/b") == 2
        assert "pip install 'aaebench[hub]'" in capsys.readouterr().err
