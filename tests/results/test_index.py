"""The index: collecting again reads what has changed, and nothing of it is believed when in doubt."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import results.read.index
from harness.record import RunFolder
from results.read.collect import collect
from results.read.index import NAME, load_index, scan
from tests.results.runs import evaluation, write_campaign, write_evaluation, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six runs, old enough for their times to be trusted, collected once."""
    write_campaign(tmp_path, {"aae": [3.0, 4.0, 5.0], "n_iter": [1.0, 2.0, 3.0]})
    age(tmp_path)
    collect(tmp_path)
    return tmp_path


def age(root: Path) -> None:
    long_ago = time.time() - 3600
    for file in root.rglob("*.json*"):
        os.utime(file, (long_ago, long_ago))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that are read from here on."""
    names: list[str] = []
    original = results.read.index.read_folder

    def note(folder: RunFolder) -> Any:
        names.append(folder.path.name)
        return original(folder)

    monkeypatch.setattr(results.read.index, "read_folder", note)
    return names


def test_what_did_not_change_is_not_read_again(root: Path, read: list[str]) -> None:
    before = collect(root)
    assert read == []
    (root / NAME).unlink()
    assert collect(root).table.equals(before.table)
    assert len(read) == 6


def test_a_run_that_went_on_is_read_again_and_only_that(root: Path, read: list[str]) -> None:
    folder = RunFolder(root / "aae-digits-32-seed1")
    write_evaluation(folder, 11, evaluation(0.5))
    runs = collect(root).runs
    assert read == ["aae-digits-32-seed1"]
    assert runs.loc[runs["epoch"] == 11, "fid"].tolist() == [0.5]


def test_new_and_removed_runs_are_noticed(root: Path, read: list[str]) -> None:
    write_run(root, "new", {10: evaluation(7)}, seed=9)
    shutil.rmtree(root / "aae-digits-32-seed0")
    run_ids = set(collect(root).runs["run_id"])
    assert read == ["new"]
    assert "new" in run_ids
    assert "aae-digits-32-seed0" not in run_ids
    assert len(run_ids) == 6


def test_a_file_as_young_as_the_index_is_not_trusted(tmp_path: Path, read: list[str]) -> None:
    write_campaign(tmp_path, {"aae": [3.0]})
    collect(tmp_path)
    collect(tmp_path)
    assert len(read) == 2, "it may have changed again within its time's resolution"


@pytest.mark.parametrize("damage", [b"", b"not an index", None])
def test_a_damaged_index_is_rebuilt(root: Path, read: list[str], damage: bytes | None) -> None:
    content = (root / NAME).read_bytes()
    (root / NAME).write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert len(collect(root).runs) == 18
    assert len(read) == 6


def test_other_code_does_not_believe_the_index(root: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results.read.index, "hash_code", lambda: "other")
    collect(root)
    assert len(read) == 6


def test_a_folder_that_cannot_be_written_to_is_collected_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / NAME).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(results.read.index, "replacing_file", refuse)
    assert len(collect(root).runs) == 18
    assert not list(root.glob(f"{NAME}*")), "nothing half-written is left"


def test_damage_is_remembered_and_mended(root: Path, read: list[str]) -> None:
    config = root / "aae-digits-32-seed0" / "config.json"
    content = config.read_text()
    config.write_text("{")
    age(config.parent)
    assert collect(root).problems["state"].tolist() == ["damaged"]
    assert collect(root).problems["state"].tolist() == ["damaged"]
    assert read == ["aae-digits-32-seed0"]
    config.write_text(content)
    assert collect(root).problems.empty


def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_campaign(tmp_path, {"aae": [3.0, 4.0, 5.0], "n_iter": [1.0, 2.0, 3.0]})
    monkeypatch.setattr(results.read.index, "PARALLEL_FROM", 1)
    monkeypatch.setattr(results.read.index, "CHUNK", 2)
    two = load_index(tmp_path, scan(tmp_path), processes=2)
    (tmp_path / NAME).unlink()
    one = load_index(tmp_path, scan(tmp_path))
    assert two.table.equals(one.table)
    assert two.generation == one.generation


def test_a_value_of_a_wrong_type_damages_its_folder_only(root: Path) -> None:
    write_run(root, "wrong", {10: evaluation(7) | {"eval/n_fake": "many"}}, seed=9)
    problems = collect(root).problems
    assert problems["run_id"].tolist() == ["wrong"]


def test_options_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for depth in (10, 2, 1):
        write_run(tmp_path, f"d{depth}", {10: evaluation(7)}, variant="latent_mapping", options={"depth": depth})
    assert collect(tmp_path).runs["run_id"].tolist() == ["d1", "d2", "d10"]
