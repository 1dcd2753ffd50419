"""The run folder is read as it was left, whatever left it."""

from pathlib import Path

import pytest

from harness.files import temporary_path
from harness.record import RunFolder, find_run_folders


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.create({"variant": "aae"})
    return folder


def test_a_truncated_last_line_is_left_out(folder: RunFolder) -> None:
    for epoch in range(3):
        folder.append_record({"epoch": epoch, "images_seen": 0})
    with (folder.path / "records.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert [record["epoch"] for record in folder.read_records()] == [0, 1, 2]


def test_a_damaged_line_in_the_middle_is_an_error(folder: RunFolder) -> None:
    (folder.path / "records.jsonl").write_text(
        '{"epoch": 0, "images_seen": 0}\nnonsense\n{"epoch": 2, "images_seen": 0}\n'
    )
    with pytest.raises(ValueError, match="line 2"):
        folder.read_records()


def test_records_after_a_checkpoint_are_dropped(folder: RunFolder) -> None:
    for epoch in range(5):
        folder.append_record({"epoch": epoch, "images_seen": 0})
    folder.keep_records(through_epoch=2)
    folder.append_record({"epoch": 3, "images_seen": 0, "again": True})
    assert [record.get("again") for record in folder.read_records()] == [None, None, None, True]


def test_a_number_that_is_not_finite_is_not_recorded(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.append_record({"epoch": 0, "loss/reconstruction": float("nan")})


def test_creating_again_keeps_the_configuration(folder: RunFolder) -> None:
    folder.create({"variant": "other"})
    assert folder.read_config() == {"variant": "aae"}


def test_a_run_that_never_started_is_queued(folder: RunFolder) -> None:
    assert folder.read_status() == {"state": "queued"}
    assert folder.read_records() == []
    assert folder.read_environment() == {}


def test_run_folders_are_found_at_any_depth(folder: RunFolder, tmp_path: Path) -> None:
    for name in ("z", "deep/er/b"):
        RunFolder(tmp_path / name).create({})
    (tmp_path / "not a run").mkdir()
    assert [found.path.name for found in find_run_folders(tmp_path)] == ["b", "a", "z"]


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(folder: RunFolder) -> None:
    folder.write_status("running")
    folder.append_record({"epoch": 0, "images_seen": 0})
    before = {*folder.path.rglob("*")}
    for name in ("environment.json", "records.jsonl", "samples/epoch-000002.png"):
        temporary_path(folder.path / name).write_text("{")
    folder.remove_leftovers()
    assert {*folder.path.rglob("*")} == before
