"""Runs in trackers: real TensorBoard event files, a real MLflow on SQLite."""

import io
import json
import os
import shutil
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.config import TRACKERS, build_config
from harness.fields import FIELDS
from harness.record import RunFolder, find_run_folders
from harness.tracking import trackers
from harness.tracking.entries import describe_line, name_cell
from results.read.collect import collect
from slurm.plan import find_missing_inputs
from tests.harness.test_train import SHORT, assert_same_run, only_folder, run, untimed
from tests.harness.trained import command, listing

NOT_HERE = next(name for name in reversed(TRACKERS) if find_spec({"comet": "comet_ml"}.get(name, name)) is None)
BRIEF = (*SHORT, "--epochs", "4", "--set", "checkpoint_every=2")
BOTH = ("--set", "trackers=[tensorboard, mlflow]")
DEMO = {"preset": "demo"}
NAME = "aae digits 32px max_images=320 batch_size=16 learning_rate=0.001"


@pytest.fixture(scope="module", autouse=True)
def no_tracker_of_ours() -> Iterator[None]:
    """Whatever the machine says of trackers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("tracked")
    assert run(out, *BRIEF, *BOTH) == 0
    return only_folder(out)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("untracked")
    assert run(out, *BRIEF) == 0
    return only_folder(out)


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(
        str(folder), {"scalars": 0, "images": 0, "compressedHistograms": 0, "histograms": 0}
    ).Reload()


def read_scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every tag, as TensorBoard shows them."""
    events = read_events(folder.path / "tensorboard")
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def find_mlflow_runs(out: Path, seed: int = 0) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "aaebench"]
    return client, list(client.search_runs([experiment.experiment_id], f"tags.seed = '{seed}'"))


def expected(folder: RunFolder, key: str, **about: Any) -> list[tuple[int, Any]]:
    """What a run has of a key, by epoch."""
    lines = [*folder.read_records(), *(line for each in folder.find_evaluations() for line in each.read())]
    lines = [line for line in lines if about.items() <= line.items()]
    return sorted((line["epoch"], line[key]) for line in lines if key in line)


def approximately(points: list[tuple[int, float]]) -> Any:
    """To float32, which TensorBoard keeps."""
    return pytest.approx(dict(points), rel=1e-6)


def test_tracking_changes_neither_the_run_nor_its_id_nor_what_is_collected(
    tracked: RunFolder, untracked: RunFolder
) -> None:
    assert_same_run(tracked, untracked)
    assert FIELDS["trackers"].changes == "nothing"
    assert [folder.path for folder in find_run_folders(tracked.path.parent)] == [tracked.path]
    collections = [collect(folder.path.parent) for folder in (tracked, untracked)]
    assert collections[0].problems.empty
    assert [len(collection.runs) for collection in collections] == [4, 4]


class TestTensorBoard:
    def test_it_has_every_loss_score_and_diagnostic_at_its_epoch(self, tracked: RunFolder) -> None:
        scalars = read_scalars(tracked)
        for key in ("loss/reconstruction", "loss/discriminator", "loss/adversary", "time/images_per_second"):
            assert dict(scalars[key]) == approximately(expected(tracked, key))
            assert [step for step, _ in scalars[key]] == [1, 2, 3, 4]
        assert dict(scalars["eval/fid"]) == approximately(expected(tracked, "eval/fid", sampler="prior"))
        assert [step for step, _ in scalars["eval/fid"]] == [0, 2, 4]
        of_images = expected(tracked, "eval/fid", sampler="reconstruction")
        assert dict(scalars["eval/fid/reconstruction"]) == approximately(of_images)
        sigma = expected(tracked, "posterior/sigma_mean")
        assert dict(scalars["posterior/sigma_mean"]) == approximately(sigma)

    def test_it_has_the_sample_grids_and_the_histograms(self, tracked: RunFolder) -> None:
        events = read_events(tracked.path / "tensorboard")
        assert [event.step for event in events.Images("samples")] == [0, 2, 4]
        for event in events.Images("samples"):
            shown = Image.open(io.BytesIO(event.encoded_image_string))
            saved = Image.open(tracked.samples / f"epoch-{event.step:06d}.png")
            assert np.array_equal(np.asarray(shown), np.asarray(saved))
        (recorded,) = [value for epoch, value in expected(tracked, "posterior/sigma_histogram") if epoch == 4]
        shown = events.Histograms("posterior/sigma")[-1].histogram_value
        assert shown.bucket == recorded["counts"]
        assert shown.bucket_limit == recorded["edges"][1:]

    def test_its_hyperparameters_are_the_runs_own(self, tracked: RunFolder) -> None:
        logs = tracked.path / "tensorboard"
        assert [path.parent for path in tracked.path.rglob("events.*")] == [logs], "one run, not another by time"
        content = read_events(logs).PluginTagToContent("hparams")["_hparams_/session_start_info"]
        assert b"learning_rate" in content

    def test_an_epoch_that_is_trained_again_is_there_once(self, untracked: RunFolder, tmp_path: Path) -> None:
        arguments = (*BRIEF, "--set", "trackers=tensorboard")
        assert run(tmp_path, *arguments) == 0
        folder = only_folder(tmp_path)
        (before,) = folder.path.glob("tensorboard/events.*")
        lines = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
        (folder.path / "records.jsonl").write_text("".join(lines[:-1]))  # the last checkpoint is of no use then
        (folder.path / "status.json").write_text('{"state": "running", "epoch": 3}')
        assert run(tmp_path, *arguments) == 0
        assert_same_run(folder, untracked)
        logs = {*folder.path.glob("tensorboard/events.*")}
        assert len(logs) == 2
        assert before in logs, "the same tracker run goes on"
        steps = {tag: [step for step, _ in points] for tag, points in read_scalars(folder).items()}
        assert steps["loss/adversary"] == [1, 2, 3, 4]
        assert steps["eval/fid"] == [0, 2, 4]
        (again,) = logs - {before}
        assert read_events(again).Tags()["scalars"], "both files have the epochs 3 and 4"
        assert [event.step for event in read_events(again).Scalars("loss/adversary")] == [3, 4]
        assert [event.step for event in read_events(before).Scalars("loss/adversary")] == [1, 2, 3, 4]

    def test_a_run_that_was_begun_without_it_is_there_whole(self, tmp_path: Path) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "2") == 0
        assert run(tmp_path, *SHORT, "--epochs", "3", "--set", "trackers=tensorboard") == 0
        scalars = read_scalars(only_folder(tmp_path))
        assert [step for step, _ in scalars["loss/adversary"]] == [1, 2, 3]
        assert [step for step, _ in scalars["eval/fid"]] == [0, 2, 3]


class TestMLflow:
    def test_a_run_has_its_cell_and_seed_its_numbers_and_its_pictures(self, tracked: RunFolder) -> None:
        client, (found,) = find_mlflow_runs(tracked.path.parent)
        assert (found.info.run_name, found.info.status) == (f"{NAME} seed 0", "FINISHED")
        assert found.data.tags["cell"] == NAME
        assert found.data.tags["seed"] == "0"
        assert found.data.params["batch_size"] == "16"
        for key, about in (("loss/adversary", {}), ("eval/fid", {"sampler": "prior"}), ("posterior/noise_share", {})):
            history = client.get_metric_history(found.info.run_id, key)
            points = sorted((point.step, point.value) for point in history)
            assert points == expected(tracked, key, **about)
        artifacts = Path(str(found.info.artifact_uri).removeprefix("file://"))
        for epoch in (0, 2, 4):
            name = f"epoch-{epoch:06d}.png"
            assert (artifacts / "samples" / name).read_bytes() == (tracked.samples / name).read_bytes()
            assert Image.open(artifacts / "posterior" / "mu" / name).width > 100

    def test_a_run_that_goes_on_goes_on_there(self, tracked: RunFolder, tmp_path: Path) -> None:
        """With a larger budget, which is another value of a parameter, and after an epoch was lost."""
        arguments = (*SHORT, "--seed", "1", "--set", "trackers=mlflow")
        shutil.copy(tracked.path.parent / "mlflow.db", tmp_path)  # beside another run; making a store takes seconds
        assert run(tmp_path, *arguments, "--epochs", "2") == 0
        folder = only_folder(tmp_path)
        lines = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
        (folder.path / "records.jsonl").write_text("".join(lines[:-1]))
        (folder.path / "status.json").write_text('{"state": "running", "epoch": 1}')
        assert run(tmp_path, *arguments, "--epochs", "4") == 0
        client, (found,) = find_mlflow_runs(tmp_path, seed=1)
        for key, steps in (("loss/adversary", [1, 2, 3, 4]), ("eval/fid", [0, 2, 4])):
            assert sorted(point.step for point in client.get_metric_history(found.info.run_id, key)) == steps
        assert found.info.status == "FINISHED"


class TestFailure:
    """None of a tracker's troubles is a run's: it ends well, after one warning, and its records are whole."""

    def expect_only_a_warning(self, out: Path, said: str, capfd: pytest.CaptureFixture[str], *reasons: str) -> None:
        folder = only_folder(out)
        assert folder.read_status()["state"] == "done"
        assert [record["epoch"] for record in folder.read_records()] == [0, 1, 2]
        error = capfd.readouterr().err
        assert error.count("warning: ") == 1
        assert said in error
        assert any(reason in error for reason in reasons)
        assert "Traceback" not in error

    def test_a_server_that_is_not_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert run(tmp_path, *SHORT, "--epochs", "2", *BOTH) == 0
        self.expect_only_a_warning(tmp_path, "warning: mlflow does not take all of aae-", capfd, "MlflowException")
        assert len(read_scalars(only_folder(tmp_path))["loss/adversary"]) == 2, "the other tracker has it all"

    def test_a_server_that_never_answers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(trackers, "SECONDS_TO_FINISH", 1)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
            assert run(tmp_path, *SHORT, "--epochs", "2", "--set", "trackers=mlflow") == 0
            self.expect_only_a_warning(tmp_path, "does not take all", capfd, "has not taken everything within 1 s")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        arguments = (*SHORT, "--epochs", "2", "--set", "trackers=tensorboard")
        folder = tmp_path / build_config(DEMO | {"max_images": 320, "batch_size": 16}).run_id
        folder.mkdir()
        (folder / "tensorboard").write_text("in the way")
        assert run(tmp_path, *arguments) == 0
        self.expect_only_a_warning(tmp_path, "--to tensorboard` sends them", capfd, "FileExistsError", "NotADirectory")


class TestAfterwards:
    def test_tensorboard_gets_the_same_as_while_training(self, tracked: RunFolder, untracked: RunFolder) -> None:
        assert command("track", str(untracked.path.parent), "--to", "tensorboard") == 0
        sent, live = read_scalars(untracked), read_scalars(tracked)
        assert sent.keys() == live.keys()
        assert all(sent[tag] == live[tag] for tag in live if not tag.startswith("time/"))
        logs = [read_events(folder.path / "tensorboard") for folder in (untracked, tracked)]
        pictures = [[(e.step, e.encoded_image_string) for e in log.Images("samples")] for log in logs]
        assert pictures[0] == pictures[1]
        histograms = [[(e.step, e.histogram_value) for e in log.Histograms("posterior/mu")] for log in logs]
        assert histograms[0] == histograms[1]

    def test_sending_again_doubles_nothing_and_changes_no_record(self, tracked: RunFolder, tmp_path: Path) -> None:
        out = tmp_path / "out"
        shutil.copytree(tracked.path.parent, out, symlinks=True)
        folder = only_folder(out)
        records, scalars = untimed(folder), read_scalars(folder)
        assert command("track", str(out), "--to", "tensorboard", "--to", "mlflow") == 0
        assert untimed(folder) == records
        assert read_scalars(folder) == scalars
        client, (found,) = find_mlflow_runs(out)
        assert len(client.get_metric_history(found.info.run_id, "loss/adversary")) == 4

    def test_a_run_under_way_is_left(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        folder = RunFolder(tmp_path / "aae-digits-32px-seed0-0123456789ab")
        folder.ask_for(build_config({}).model_dump(mode="json"))
        folder.write_status("running")
        assert command("track", str(tmp_path), "--to", "tensorboard") == 0
        assert "is running, and is left" in capfd.readouterr().err
        assert not (folder.path / "tensorboard").exists()

    def test_what_was_not_taken_is_named_with_status_1(
        self, untracked: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(untracked.path, tmp_path / "whole" / untracked.path.name, symlinks=True)
        shutil.copytree(untracked.path, tmp_path / "damaged" / untracked.path.name, symlinks=True)
        (tmp_path / "damaged" / untracked.path.name / "records.jsonl").write_text("{\n{}\n")
        assert command("track", str(tmp_path), "--to", "tensorboard") == 1
        assert "is damaged: records.jsonl, line 1" in capfd.readouterr().err
        assert len(read_scalars(RunFolder(tmp_path / "whole" / untracked.path.name))["loss/adversary"]) == 4


class TestBadInput:
    def test_a_tracker_that_is_not_installed(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "runs", *SHORT, "--set", f"trackers=[{NOT_HERE}]") == 2
        remedy = f"the tracker {NOT_HERE} is not installed; install it: pip install 'aaebench[{NOT_HERE}]'"
        assert remedy in capfd.readouterr().err
        assert not (tmp_path / "runs").exists()
        assert find_missing_inputs([build_config(DEMO | {"trackers": [NOT_HERE]})]) == [remedy], "sweeps say it before"

    def test_a_tracker_that_does_not_exist(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "runs", *SHORT, "--set", "trackers=[tensorbord]") == 2
        assert run(tmp_path / "runs", *SHORT, "--set", "trackers=3") == 2
        assert run(tmp_path / "runs", *SHORT, "--set", "trackers=[mlflow, mlflow]") == 2
        error = capfd.readouterr().err
        assert "unknown tracker 'tensorbord'; did you mean tensorboard?" in error
        assert "name each at most once" in error
        assert not (tmp_path / "runs").exists()

    def test_what_cannot_be_sent_or_sent_to(
        self, untracked: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        before = listing(untracked.path)
        assert command("track", str(untracked.path), "--to", "tensorbord") == 2
        assert command("track", str(untracked.path), "--to", "tensorboard", "--to", NOT_HERE) == 2
        assert command("track", str(tmp_path), "--to", "tensorboard") == 2
        error = capfd.readouterr().err
        assert "did you mean tensorboard?" in error
        assert f"pip install 'aaebench[{NOT_HERE}]'" in error
        assert f"{tmp_path} holds no run folders" in error
        assert listing(untracked.path) == before
        assert [*tmp_path.iterdir()] == []


def test_other_codes_seeds_and_protocols_are_named_behind_the_score() -> None:
    line = {"epoch": 3, "images_seen": 9, "sampler": "prior", "sampling_seed": 0, "eval/fid": 2.5}
    assert describe_line(line, "").numbers == {"eval/fid": 2.5}
    assert [*describe_line(line | {"sampling_seed": 1}, "").numbers] == ["eval/fid/prior-1"]
    assert [*describe_line(line | {"sampler": "gmm"}, "clean-01").numbers] == ["eval/fid/gmm/clean-01"]
    posterior = {"epoch": 3, "images_seen": 9, "posterior/kl": 1.5, "posterior/collapse": "none"}
    assert describe_line(posterior, "clean-01").numbers == {"posterior/kl/clean-01": 1.5}


def test_a_cell_is_named_by_what_is_trained_but_the_seed() -> None:
    config = json.loads(build_config({"variant": "n_iter", "options.n": 5, "seed": 3, "epochs": 7}).model_dump_json())
    assert name_cell(config, {"n": 1}).startswith("n_iter digits 32px")
    assert "n=5" in name_cell(config, {"n": 1})
    assert name_cell(config, config["options"]) == name_cell(config | {"seed": 4}, config["options"])
