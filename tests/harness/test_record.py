"""The run folder is read as it was left, whatever left it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.files import temporary_path
from harness.record import EvaluationFolder, RunFolder, find_run_folders, key_of


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "a")
    folder.ask_for({"variant": "aae"})
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


def test_the_newest_request_counts_but_nothing_that_was_asked_for_is_lost(tmp_path: Path) -> None:
    paper, clean = {"name": "paper", "n_fake": None}, {"name": "clean"}
    folder = RunFolder(tmp_path / "run")
    folder.ask_for({"epochs": 100, "protocol": [paper], "sweep": "first", "eval_every": 5})
    folder.ask_for({"epochs": 50, "protocol": [clean, {**paper, "n_fake": 7}], "sweep": "second", "eval_every": 1})
    asked = folder.read_config()
    assert (asked["epochs"], asked["sweep"], asked["eval_every"]) == (100, "first", 1)
    assert asked["protocol"] == [{"name": "paper", "n_fake": 7}, clean]


class TestEvaluation:
    @pytest.fixture
    def evaluation(self, folder: RunFolder) -> EvaluationFolder:
        evaluation = folder.evaluation("paper-0123456789")
        evaluation.create({"id": evaluation.protocol_id})
        return evaluation

    def line(self, epoch: int, sampler: str = "prior", fid: float = 1.0) -> dict[str, Any]:
        return {"epoch": epoch, "images_seen": 0, "sampler": sampler, "sampling_seed": 0, "eval/fid": fid}

    def test_the_first_of_two_lines_that_say_the_same_counts(self, evaluation: EvaluationFolder) -> None:
        evaluation.append([self.line(1, fid=1), self.line(1, "gmm"), {"epoch": 1, "images_seen": 0, "posterior/kl": 3}])
        evaluation.append([self.line(1, fid=2), self.line(2, fid=3)])
        found = evaluation.read()
        assert [key_of(line) for line in found] == [(1, "prior", 0), (1, "gmm", 0), (1, "", 0), (2, "prior", 0)]
        assert found[0]["eval/fid"] == 1

    def test_a_line_that_a_kill_cut_short_is_as_if_it_were_not_there(self, evaluation: EvaluationFolder) -> None:
        evaluation.append([self.line(1)])
        with (evaluation.path / "records.jsonl").open("a") as file:
            file.write('{"epoch": 2, "images_seen": 0, "sam')
        evaluation.append([self.line(2, fid=5), self.line(3)])
        assert [(line["epoch"], line["eval/fid"]) for line in evaluation.read()] == [(1, 1), (2, 5), (3, 1)]

    def test_processes_that_append_at_once_lose_nothing(self, evaluation: EvaluationFolder) -> None:
        code = (
            "import sys; from pathlib import Path; from harness.record import EvaluationFolder\n"
            "folder, first = EvaluationFolder(Path(sys.argv[1])), int(sys.argv[2])\n"
            "for n in range(200):\n"
            "    folder.append([{'epoch': first + n, 'images_seen': 0, 'sampler': 'prior', 'eval/fid': 1.0}])\n"
        )
        command = [sys.executable, "-c", code, str(evaluation.path)]
        processes = [subprocess.Popen([*command, str(1000 * number)]) for number in range(3)]
        assert [process.wait() for process in processes] == [0, 0, 0]
        assert {line["epoch"] for line in evaluation.read()} == {1000 * k + n for k in range(3) for n in range(200)}

    def test_lines_after_a_checkpoint_are_dropped(self, evaluation: EvaluationFolder) -> None:
        evaluation.append([self.line(epoch) for epoch in range(5)])
        evaluation.keep(through_epoch=2)
        assert [line["epoch"] for line in evaluation.read()] == [0, 1, 2]

    def test_all_that_were_begun_are_found(self, folder: RunFolder, evaluation: EvaluationFolder) -> None:
        (folder.evaluations / "no evaluation").mkdir()
        assert folder.find_evaluations() == [evaluation]
        assert evaluation.read_protocol() == {"id": "paper-0123456789"}


def test_a_run_that_never_started_is_queued(folder: RunFolder) -> None:
    assert folder.read_status() == {"state": "queued"}
    assert folder.read_records() == []
    assert folder.read_environment() == {}


def test_run_folders_are_found_at_any_depth(folder: RunFolder, tmp_path: Path) -> None:
    for name in ("z", "deep/er/b"):
        RunFolder(tmp_path / name).ask_for({})
    (tmp_path / "not a run").mkdir()
    assert [found.path.name for found in find_run_folders(tmp_path)] == ["b", "a", "z"]


def test_no_folder_of_the_code_is_taken_for_a_run() -> None:
    """A submission's snapshot of it lies below the folder that holds the runs."""
    assert list(find_run_folders(Path(harness.__file__).parent)) == []


def test_what_a_kill_left_half_written_is_removed_and_nothing_else(folder: RunFolder) -> None:
    folder.write_status("running")
    folder.append_record({"epoch": 0, "images_seen": 0})
    before = {*folder.path.rglob("*")}
    for name in ("environment.json", "records.jsonl", "samples/epoch-000002.png"):
        temporary_path(folder.path / name).write_text("{")
    folder.remove_leftovers()
    assert {*folder.path.rglob("*")} == before
