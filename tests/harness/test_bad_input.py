"""Bad input is explained before anything is written: exit status 2."""

import json
import subprocess
from pathlib import Path

import pytest

from aaebench import app
from harness.commands import call
from harness.data.staging import stage_dataset
from harness.evaluation.classifier import SHIPPED
from tests.harness.data.test_staging import write_images
from tests.harness.test_train import SHORT, evaluated, only_folder, run
from tests.harness.trained import listing


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--variant", "aee"), "unknown variant 'aee'; did you mean vae or aae?"),
            (("--dataset", "fashon_mnist"), "did you mean fashion_mnist?"),
            (("--set", "options.n=3"), "unknown option of aae 'n'; valid: kl_direction"),
            (("--set", "preset=dem"), "unknown preset 'dem'; did you mean demo?"),
            (("--image-size", "500"), "takes 8 to 128 px"),
            (("--set", "architecture=conv", "--image-size", "50"), "halves the side to 4 to 7 px: it takes 32, 40"),
            (("--batch-size", "1000"), "batch_size = 1000 is more than the 320 images"),
            (("--batch-size", "2", "--set", "gradient_accumulation=2"), "BatchNorm needs two; set it to 4 or more"),
            (("--extractor", "inception"), "aaebench stage --inception"),
            (("--mixed-precision", "fp16"), "needs a GPU"),
            (("--set", "epoch=3"), "unknown field 'epoch'; did you mean epochs?"),
        ],
    )
    def test_is_explained_and_nothing_is_written(
        self, tmp_path: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path / "runs", *SHORT, *arguments) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not (tmp_path / "runs").exists()

    def test_a_missing_configuration_file(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path / "runs", "--config", "/no/such.yaml") == 2
        assert "cannot read the configuration /no/such.yaml" in capfd.readouterr().err

    def test_values_of_a_wrong_type(self, aaebench: str, tmp_path: Path) -> None:
        command = [aaebench, "run", "--epochs", "many", "--out", str(tmp_path / "runs")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert not (tmp_path / "runs").exists()

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("in the way")
        assert run(tmp_path / "file", *SHORT) == 2
        assert "choose another with --out" in capfd.readouterr().err

    def test_a_config_that_does_not_match_its_id(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        folder = only_folder(tmp_path)
        config = folder.read_config()
        folder.config_file.write_text(json.dumps(config | {"latent_dim": 11}))
        assert run(tmp_path, *SHORT, "--epochs", "1") == 2
        assert "latent_dim is 11 there, 10 here); was it edited, or its folder renamed?" in capfd.readouterr().err
        folder.config_file.write_text("{")
        assert run(tmp_path, *SHORT, "--epochs", "1") == 2
        assert "remove the folder to start this run anew" in capfd.readouterr().err
        folder.config_file.write_text(json.dumps(config))
        for name, content in (("status.json", "{}"), ("records.jsonl", 'x\n{"epoch": 1}\n')):
            before = (folder.path / name).read_text()
            (folder.path / name).write_text(content)
            assert run(tmp_path, *SHORT, "--epochs", "1") == 2
            assert name in capfd.readouterr().err
            (folder.path / name).write_text(before)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "name something: --dataset NAME"),
            (("--dataset", "mnist", "--from", "/no/such"), "there is no file or folder /no/such"),
            (("--dataset", "mnist", "--dataset", "emnist", "--from", "."), "one at a time"),
            (("--dataset", "digits", "--image-size", "4"), "outside 8 to 128 px"),
            (("--dataset", "Faces", "--from", "."), "lower-case letters"),
            (("--inception", "--test"), "--test belongs to a data set"),
            (("--dataset", "faces", "--test"), "needs its files"),
            (("--inception", "--torchvision-inception", "--from", "."), "one at a time"),
            (("--from-bundle", "/no/such.tar"), "no whole bundle"),
        ],
    )
    def test_staging(self, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert call(lambda: app(["stage", *arguments], result_action="return_value")) == 2
        assert message in capfd.readouterr().err


class TestOtherData:
    def test_a_run_is_not_continued_on_other_data(self, tmp_path: Path, empty_cache: Path) -> None:
        weights = SHIPPED / "domain-digits.safetensors"
        arguments = ("--dataset", "my", "--epochs", "1", "--batch-size", "10", "--extractor", "domain")
        arguments += ("--set", f"extractor_weights={weights}")
        stage_dataset("my", 32, write_images(tmp_path / "a", n=20))
        assert run(tmp_path / "runs", *arguments) == 0
        stage_dataset("my", 32, write_images(tmp_path / "b", n=20))
        assert run(tmp_path / "runs", *arguments) == 2, "not even if it is done"
        stage_dataset("my", 32, tmp_path / "a")
        assert run(tmp_path / "runs", *arguments) == 0

    def test_a_weights_file_may_move(self, tmp_path: Path) -> None:
        weights = tmp_path / "here.safetensors"
        weights.write_bytes((SHIPPED / "domain-digits.safetensors").read_bytes())
        for _ in range(2):
            assert run(tmp_path, *SHORT, "--epochs", "1", "--set", f"extractor_weights={weights}") == 0
            weights = weights.rename(tmp_path / "there.safetensors")
        only_folder(tmp_path)

    def test_lost_records_are_not_made_up(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        folder = only_folder(tmp_path)
        first, second = (folder.path / "records.jsonl").read_text().splitlines(keepends=True)
        (folder.path / "records.jsonl").write_text(second)
        folder.write_status("queued")
        before = listing(folder.path)
        assert run(tmp_path, *SHORT, "--epochs", "1") == 2
        assert "lacks epochs that were trained" in capfd.readouterr().err
        changed = {path for path, time in listing(folder.path).items() if before.get(path) != time}
        assert changed <= {folder.checkpoints, folder.checkpoints / "latest", folder.checkpoints / "best"}
        (folder.path / "records.jsonl").write_text(first)
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        assert [record["epoch"] for record in folder.read_records()] == [0, 1]

    @pytest.mark.parametrize("where", ["config.json", "status.json"])
    def test_a_folder_where_a_file_should_be(
        self, where: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "1") == 0
        file = only_folder(tmp_path).path / where
        file.unlink()
        file.mkdir()
        assert run(tmp_path, *SHORT, "--epochs", "1") == 2
        assert f"is damaged ({where} is no file)" in capfd.readouterr().err


class TestImageFolders:
    def test_from_a_folder_of_photographs_at_64_px_to_scores(self, tmp_path: Path, empty_cache: Path) -> None:
        """Without labels the domain extractor takes a weights file, as its error says."""
        folder = write_images(tmp_path / "faces", n=40)
        stage = ["stage", "--dataset", "faces", "--image-size", "64", "--from", str(folder)]
        assert call(lambda: app(stage, result_action="return_value")) == 0
        weights = SHIPPED / "domain-digits.safetensors"
        arguments = ("--dataset", "faces", "--image-size", "64", "--epochs", "1", "--batch-size", "20")
        assert run(tmp_path / "runs", *arguments, "--extractor", "domain", "--set", f"extractor_weights={weights}") == 0
        (evaluation,) = only_folder(tmp_path / "runs").find_evaluations()
        assert evaluation.read_protocol()["n_real"] == 40
        assert evaluated(only_folder(tmp_path / "runs"), 1)["eval/fid"] > 0
