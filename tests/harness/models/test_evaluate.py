"""A run is trained once, and scored under any protocol, on the way or afterwards, to the same numbers."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from harness.models.load import load_trained
from harness.record import EvaluationFolder, RunFolder, key_of
from results.read.collect import collect
from tests.harness.test_train import PATIENCE, SHORT, only_folder, run, untimed
from tests.harness.trained import command

CLEAN = ("--protocol", "clean", "--extractor", "domain")
TWO = ("--protocol", "paper", "--protocol", "clean")


def lines(folder: RunFolder, protocol: str) -> dict[Any, dict[str, Any]]:
    """What a run's evaluation under a protocol says, by what each line is about."""
    (evaluation,) = (each for each in folder.find_evaluations() if each.protocol_id.startswith(protocol))
    return {
        key_of(line): {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in evaluation.read()
    }


@pytest.fixture(scope="module")
def scored_twice(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four epochs, scored under two protocols on the way."""
    out = tmp_path_factory.mktemp("twice")
    assert run(out, *SHORT, "--epochs", "4", *TWO) == 0
    return only_folder(out)


@pytest.fixture
def scored_once(tmp_path: Path) -> RunFolder:
    """The same training, scored under the first protocol alone; every evaluated epoch's weights are kept."""
    assert run(tmp_path / "once", *SHORT, "--epochs", "4", "--set", "keep_weights=evaluations") == 0
    return only_folder(tmp_path / "once")


class TestReadings:
    def test_two_protocols_read_one_training(self, scored_twice: RunFolder) -> None:
        paper, clean = lines(scored_twice, "paper"), lines(scored_twice, "clean")
        assert paper.keys() == clean.keys()
        assert {epoch for epoch, *_ in paper} == {0, 2, 4}
        assert paper[4, "prior", 0]["eval/fid"] != clean[4, "prior", 0]["eval/fid"]

    def test_a_reading_taken_later_is_that_on_the_way(self, scored_once: RunFolder, scored_twice: RunFolder) -> None:
        assert scored_once.path.name == scored_twice.path.name
        trained = (scored_once.path / "records.jsonl").read_bytes(), (scored_once.checkpoints / "latest").readlink()
        assert command("evaluate", str(scored_once.path.parent), *CLEAN, "--epoch", "all") == 0
        assert lines(scored_once, "clean") == lines(scored_twice, "clean")
        now = (scored_once.path / "records.jsonl").read_bytes(), (scored_once.checkpoints / "latest").readlink()
        assert now == trained, "nothing is trained"

    def test_an_extractor_that_the_run_was_not_trained_with(self, scored_once: RunFolder) -> None:
        network = scored_once.path.parent / "colours.pt"
        torch.jit.script(nn.AdaptiveAvgPool2d(2)).save(network)  # pyright: ignore[reportAttributeAccessIssue]
        assert command("evaluate", str(scored_once.path), "--protocol", "clean", "--extractor", str(network)) == 0
        (later,) = (each for each in scored_once.find_evaluations() if each.protocol_id.startswith("clean"))
        assert later.read_protocol()["extractor"] == "torchscript"
        assert lines(scored_once, "clean")[4, "prior", 0]["eval/fid"] > 0
        assert "eval/inception_score" not in lines(scored_once, "clean")[4, "prior", 0], "it has no classes"

    def test_the_best_epoch(self, scored_once: RunFolder) -> None:
        assert command("evaluate", str(scored_once.path), *CLEAN, "--epoch", "best") == 0
        best = min((2, 4), key=lambda epoch: evaluated_under(scored_once, "paper", epoch))
        assert {epoch for epoch, *_ in lines(scored_once, "clean")} == {best}

    def test_weights_that_are_kept_are_the_encoders_and_the_decoders(self, scored_once: RunFolder) -> None:
        kept = load_file(scored_once.weights / "epoch-000002.safetensors")
        whole = load_file(scored_once.checkpoints / "latest" / "model.safetensors")
        assert {name.split(".")[0] for name in kept} == {"encoder", "decoder"}
        assert {name.split(".")[0] for name in whole} == {"encoder", "decoder", "discriminator"}

    def test_only_what_is_missing_is_measured(
        self, scored_once: RunFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert command("evaluate", str(scored_once.path), *CLEAN) == 0
        assert [key for key in lines(scored_once, "clean") if key[1]] == [(4, "prior", 0), (4, "reconstruction", 0)]
        before = lines(scored_once, "clean")
        assert command("evaluate", str(scored_once.path), *CLEAN, "--set", "samplers=[prior, gmm]") == 0
        assert set(lines(scored_once, "clean")) - set(before) == {(4, "gmm", 0)}
        monkeypatch.setattr("harness.models.evaluate.evaluate_runs", None)  # would fail if it were called
        assert command("evaluate", str(scored_once.path), *CLEAN) == 0
        assert "1 had all of it" in capfd.readouterr().err

    def test_run_asked_for_another_protocol_reads_the_weights_that_are_there(self, scored_once: RunFolder) -> None:
        weights = (scored_once.checkpoints / "latest" / "model.safetensors").stat().st_mtime_ns
        assert run(scored_once.path.parent, *SHORT, "--epochs", "4", "--protocol", "clean") == 0
        assert {epoch for epoch, *_ in lines(scored_once, "clean")} == {0, 2, 4}
        assert (scored_once.checkpoints / "latest" / "model.safetensors").stat().st_mtime_ns == weights
        assert [protocol["name"] for protocol in scored_once.read_config()["protocol"]] == ["paper", "clean"]

    def test_late_evaluations_are_those_on_the_way(self, tmp_path: Path, scored_twice: RunFolder) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "4", *TWO, "--set", "eval={when: after}") == 0
        late = only_folder(tmp_path)
        for protocol in ("paper", "clean"):
            assert lines(late, protocol) == lines(scored_twice, protocol)
        best = min((0, 2, 4), key=lambda epoch: evaluated_under(late, "paper", epoch) if epoch else 1e9)
        assert load_trained(late.path, "best").origin.epoch == best

    def test_separate_evaluations_are_those_on_the_way(self, tmp_path: Path, scored_twice: RunFolder) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "4", *TWO, "--set", "eval={when: separately}") == 0
        trained = only_folder(tmp_path)
        assert trained.read_status()["state"] == "done"
        assert not trained.find_evaluations()
        (problem,) = collect(tmp_path).problems.to_dict(orient="records")
        assert (problem["state"], "aaebench evaluate" in problem["reason"]) == ("running", True)
        assert run(tmp_path, *SHORT, "--epochs", "4", *TWO, "--set", "eval={when: separately}") == 0
        assert not trained.find_evaluations(), "it is finished, and evaluated by others"
        assert command("evaluate", str(tmp_path), "--epoch", "all") == 0
        for protocol in ("paper", "clean"):
            assert lines(trained, protocol) == lines(scored_twice, protocol)
        assert collect(tmp_path).problems.empty


def evaluated_under(folder: RunFolder, protocol: str, epoch: int) -> float:
    return lines(folder, protocol)[epoch, "prior", 0]["eval/fid"]


class TestFaults:
    def evaluate(self, folder: RunFolder) -> Any:
        arguments = ["evaluate", str(folder.path), *CLEAN, "--epoch", "all"]
        return subprocess.Popen([sys.executable, "-m", "aaebench", *arguments], stderr=subprocess.PIPE, text=True)

    def find(self, folder: RunFolder) -> EvaluationFolder | None:
        return next((each for each in folder.find_evaluations() if each.protocol_id.startswith("clean")), None)

    def test_an_evaluation_that_was_killed_goes_on(self, scored_once: RunFolder, scored_twice: RunFolder) -> None:
        process, deadline = self.evaluate(scored_once), time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.find(scored_once)
            if found is not None and found.read():
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = lines(scored_once, "clean")
        assert len(done) > 0
        assert command("evaluate", str(scored_once.path), *CLEAN, "--epoch", "all") == 0
        assert lines(scored_once, "clean") == lines(scored_twice, "clean")

    def test_two_at_once_lose_nothing(self, scored_once: RunFolder, scored_twice: RunFolder) -> None:
        processes = [self.evaluate(scored_once) for _ in range(2)]
        assert [process.wait() for process in processes] == [0, 0], [p.stderr.read() for p in processes]
        assert lines(scored_once, "clean") == lines(scored_twice, "clean")
        found = self.find(scored_once)
        assert found is not None
        assert len((found.path / "records.jsonl").read_text().splitlines()) == len(found.read()), "none is made twice"


class TestLongerTraining:
    def test_goes_on_to_the_numbers_of_a_longer_run(self, tmp_path: Path, uninterrupted: RunFolder) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "4") == 0
        folder = only_folder(tmp_path)
        assert folder.path.name == uninterrupted.path.name
        assert run(tmp_path, *SHORT, "--epochs", "8") == 0
        only = untimed(folder)
        shorter = [line for line in only if line.get("sampler") == "reconstruction" and line["epoch"] == 4]
        assert len(shorter) == 1, "the end of the shorter budget keeps its reconstructions"
        assert [line for line in only if line not in shorter] == untimed(uninterrupted)
        assert folder.read_config()["epochs"] == folder.read_status()["epoch"] == 8

    def test_a_shorter_budget_reads_what_is_there(
        self, tmp_path: Path, uninterrupted: RunFolder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        out = uninterrupted.path.parent
        before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
        assert run(out, *SHORT, "--epochs", "4") == 0
        assert capfd.readouterr().out.splitlines()[-1] == str(uninterrupted.path)
        assert run(out, *SHORT, "--epochs", "3") == 2
        assert "trained for 8 epochs, and after 3 it was not evaluated" in capfd.readouterr().err
        assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()} == before


class TestBadInput:
    def test_weights_that_were_not_kept(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "2") == 0
        folder = only_folder(tmp_path)
        (folder.checkpoints / "best").unlink()
        (folder.checkpoints / "best").symlink_to("epoch-000001-step-000000")
        assert command("evaluate", str(tmp_path), *CLEAN, "--epoch", "best") == 2
        assert "leads to" in capfd.readouterr().err

    def test_a_run_that_is_still_training(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "2") == 0
        folder = only_folder(tmp_path)
        status = folder.read_status()
        folder.write_status("running", epoch=1, epochs=2)
        assert command("evaluate", str(tmp_path), *CLEAN) == 2
        assert "is not finished (running, epoch 1 of 2)" in capfd.readouterr().err
        folder.write_status("done", epoch=status["epoch"], epochs=2)
        (folder.path / "environment.json").write_text(json.dumps(folder.read_environment() | {"data_sha256": "0" * 64}))
        assert command("evaluate", str(tmp_path), *CLEAN) == 2
        assert "was trained on other data" in capfd.readouterr().err
        assert len(folder.find_evaluations()) == 1

    def test_an_extractor_that_has_changed_since(
        self, scored_once: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (evaluation,) = scored_once.find_evaluations()
        protocol = evaluation.read_protocol()
        other = scored_once.evaluation("clean-0000000000")
        other.create({**protocol, "id": other.protocol_id, "name": "clean", "normalisation": "running"})
        content = json.loads((other.path / "protocol.json").read_text())
        (other.path / "protocol.json").write_text(json.dumps(content | {"extractor_sha256": "0" * 64}))
        assert command("evaluate", str(scored_once.path), *CLEAN) == 2
        assert "the extractor domain is another than when clean-0000000000 was begun" in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--set", "learning_rate=1"), "learning_rate does not change how finished runs are scored"),
            (("--protocol", "papr"), "unknown protocol 'papr'; did you mean paper?"),
            (("--extractor", "inceptoin"), "unknown extractor"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, arguments: tuple[str, ...], message: str, finished_run: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert command("evaluate", str(finished_run), *arguments) == 2
        assert message in capfd.readouterr().err

    def test_no_runs(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert command("evaluate", str(tmp_path)) == 2
        assert "holds no run folders" in capfd.readouterr().err


class TestShow:
    def test_says_what_differs_where_it_stands_and_what_it_has(
        self, scored_twice: RunFolder, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert command("show", str(scored_twice.path)) == 0
        shown = capfd.readouterr().out
        assert shown.startswith(f"{scored_twice.path.name}\ndone: epoch 4 of 4\n")
        assert "  max_images: 320\n" in shown
        assert "  batch_size: " in shown
        assert "latent_dim" not in shown, "what is the default goes without saying"
        assert 'protocol: ["paper (domain)", "clean (domain)"]' in shown
        assert shown.count("codes from prior, reconstruction; epochs 0, 2, 4") == 2

    def test_a_reader_that_has_read_enough_ends_it_quietly(self, finished_run: Path) -> None:
        command = f"{sys.executable} -m aaebench show {finished_run} | true"
        process = subprocess.run(
            ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False
        )
        assert process.stderr == b""
        assert process.returncode in (0, 128 + signal.SIGPIPE)

    def test_needs_a_run(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert command("show", str(tmp_path)) == 2
        assert "is no run folder" in capfd.readouterr().err
