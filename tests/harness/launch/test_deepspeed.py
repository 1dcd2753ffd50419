"""Under DeepSpeed's ZeRO a run trains as without it, and what ZeRO cannot do is refused. Real processes, on CPUs."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness.every_variant import TRAINED
from tests.harness.launch.test_processes import ROOT, finish, launch, wait_until_not_running
from tests.harness.test_train import (
    PATIENCE,
    SHORT,
    assert_same_run,
    final_weights,
    only_folder,
    run,
    untimed,
    wait_for_epoch,
)

EVERY_VARIANT = str(ROOT / "tests/harness/every_variant.py")
TRAIN = ("-m", "harness.train", *SHORT, "--epochs", "3", "--set", "checkpoint_every=1")


def launch_zero(stage: int, out: Path | None, *arguments: str, n: int = 2) -> Any:
    return launch(out, n, *arguments, launcher=("--config_file", f"harness/launch/launchers/zero{stage}.yaml"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every variant on two processes without DeepSpeed."""
    file = tmp_path_factory.mktemp("plain") / "results.pt"
    stdout = finish(launch(None, 2, EVERY_VARIANT, str(file)))
    assert stdout.splitlines() == [f"{name}: 2 None" for name in TRAINED]
    return torch.load(file)


@pytest.mark.parametrize("stage", [1, 2])
def test_zero_trains_every_variant_as_plain_training_does(stage: int, plain: Any, tmp_path: Path) -> None:
    """Equal within 1e-6, the phases that share the encoder's parameters and forward pass included."""
    file = tmp_path / "results.pt"
    stdout = finish(launch_zero(stage, None, EVERY_VARIANT, str(file)))
    trained = [line for line in stdout.splitlines() if line.endswith(f": 2 {stage}")]
    assert trained == [f"{n}: 2 {stage}" for n in TRAINED]
    zero = torch.load(file)
    for name in TRAINED:
        torch.testing.assert_close(
            zero[name]["losses"], plain[name]["losses"], rtol=1e-6, atol=1e-6, msg=lambda m, name=name: name + m
        )
        for key, expected in plain[name]["parameters"].items():
            difference = (zero[name]["parameters"][key] - expected).abs().max().item()
            assert difference < 1e-6, f"{name}: {key} differs by {difference}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("zero")
    stdout = finish(launch_zero(1, out, *TRAIN))
    folder = only_folder(out)
    assert stdout.splitlines()[-1] == str(folder.path)
    return folder


def test_a_run_leaves_a_folder_like_any_other(whole: Any) -> None:
    assert whole.read_status()["state"] == "done"
    environment = whole.read_environment()
    assert (environment["num_processes"], environment["zero_stage"]) == (2, 1)
    newest = (whole.checkpoints / "latest").resolve()
    assert sorted(file.name for file in newest.iterdir()) == [
        "model.safetensors",
        "optimizer-0-of-2.safetensors",
        "optimizer-1-of-2.safetensors",
        "progress.json",
    ]


def test_a_stopped_run_resumes_bit_identically(whole: Any, tmp_path: Path) -> None:
    process = launch_zero(1, tmp_path, *TRAIN)
    wait_for_epoch(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    wait_until_not_running(only_folder(tmp_path))
    finish(launch_zero(1, tmp_path, *TRAIN))
    assert_same_run(only_folder(tmp_path), whole)


def test_another_number_of_processes_or_no_deepspeed_cannot_resume_it(
    whole: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.path, tmp_path / whole.path.name, symlinks=True)
    folder = only_folder(tmp_path)
    folder.write_status("queued")
    before, weights = untimed(folder), final_weights(folder)
    process = launch_zero(1, tmp_path, *TRAIN, n=1)
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert "ZeRO stage 1 on 2 processes, this launch is ZeRO stage 1 on 1 processes" in stderr
    assert run(tmp_path, *SHORT, "--epochs", "3") == 2
    assert "resume it as it was launched" in capfd.readouterr().err
    assert untimed(folder) == before
    assert final_weights(folder).keys() == weights.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--zero_stage", "3"), "use --zero_stage 2 or 1"),
        (("--zero_stage", "2", "--gradient_clipping", "0.5"), "--set gradient_clipping=0.5"),
    ],
)
def test_what_zero_cannot_do_is_refused_with_the_reason(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    train = ("-m", "harness.train", *SHORT)
    process = launch(tmp_path / "runs", 2, *train, launcher=("--use_deepspeed", *options))
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert stderr.count(message) == 1
    assert not (tmp_path / "runs").exists()
