"""What harness/training/checkpoint.py promises, in one process (and of random numbers, in two)."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import build_config
from harness.train import prepare
from harness.training.checkpoint import Progress, find_checkpoint, load_checkpoint, read_manifest, save_checkpoint
from harness.training.engine import Engine
from tests.harness.launch.test_processes import finish, launch
from tests.harness.noisy import Noisy
from tests.harness.test_train import PATIENCE, SHORT, assert_same_run, only_folder, run

FIELDS = {"preset": "demo", "batch_size": 32, "max_images": 128, "optimizer": "adamw", "weight_decay": 0.01}


class Trial:
    """An engine with its data: four steps an epoch."""

    def __init__(self, **fields: Any) -> None:
        self.engine, self.data, _ = prepare(build_config(FIELDS | {"ema_decay": 0.9} | fields))

    def train(self, *steps: int) -> None:
        for step in steps:
            indices = [*self.data.epoch(0, step // 4, 32, 0, 1)][step % 4]
            self.engine.step(self.data.batch(indices, self.engine.processes.device), step)

    def state(self) -> dict[str, torch.Tensor]:
        engine = self.engine
        assert engine.average is not None
        averages = {f"average of {name}": tensor for name, tensor in engine.average.averages.items()}
        state = {**engine.variant.state_dict(), **engine.optimizer_tensors(), **averages}
        return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def trial() -> Trial:
    trial = Trial()
    trial.train(0, 1)
    return trial


@pytest.fixture
def engine(trial: Trial) -> Engine:
    return trial.engine


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def target(folder: Path, link: str) -> str:
    return (folder / link).readlink().name


def checkpoint(epoch: int, step: int = 0) -> str:
    return f"epoch-{epoch:06d}-step-{step:06d}"


def test_weights_moments_and_moving_averages_are_restored(tmp_path: Path) -> None:
    whole, stopped, resumed = Trial(), Trial(), Trial(seed=1)
    whole.train(0, 1, 2, 3)
    stopped.train(0, 1)
    save_checkpoint(tmp_path, Progress(0, 2, {"reconstruction": [0.1]}), stopped.engine)
    assert load_checkpoint(tmp_path, resumed.engine) == Progress(0, 2, {"reconstruction": [0.1]})
    resumed.engine.config, resumed.engine.noise.seed = stopped.engine.config, 0
    resumed.train(2, 3)
    assert whole.state().keys() == resumed.state().keys()
    assert any("exp_avg_sq" in name for name in whole.state())
    for name, tensor in whole.state().items():
        assert tensor.equal(resumed.state()[name]), name


def test_the_newest_are_kept_and_the_best(tmp_path: Path, engine: Engine) -> None:
    for epoch in range(1, 7):
        save_checkpoint(tmp_path, Progress(epoch), engine, keep=2, best=epoch == 2)
    assert names(tmp_path) == ["best", checkpoint(2), checkpoint(5), checkpoint(6), "latest"]
    assert (target(tmp_path, "best"), target(tmp_path, "latest")) == (checkpoint(2), checkpoint(6))


def test_checkpoints_within_an_epoch_count_as_well(tmp_path: Path, engine: Engine) -> None:
    for progress in (Progress(1), Progress(1, 3), Progress(1, 12), Progress(2)):
        save_checkpoint(tmp_path, progress, engine, keep=3)
    assert names(tmp_path) == [checkpoint(1, 3), checkpoint(1, 12), checkpoint(2), "latest"]


def test_a_damaged_one_does_not_take_the_place_of_a_new_one(tmp_path: Path, engine: Engine) -> None:
    for epoch in (1, 8, 9):
        save_checkpoint(tmp_path, Progress(epoch), engine)
        (tmp_path / checkpoint(epoch) / "model.safetensors").write_bytes(b"")
    assert load_checkpoint(tmp_path, engine) == Progress()
    for epoch in (1, 2):
        save_checkpoint(tmp_path, Progress(epoch), engine, keep=2)
        assert load_checkpoint(tmp_path, engine).epoch == epoch
    assert names(tmp_path) == [checkpoint(1), checkpoint(2), "latest"]


def test_what_a_kill_left_is_gone_when_the_run_resumes(tmp_path: Path, engine: Engine) -> None:
    """Also where it resumes at its last epoch and saves no more."""
    save_checkpoint(tmp_path, Progress(1), engine)
    for left in (".writing-epoch-000002-step-000000", ".dropping-epoch-000000-step-000008"):
        (tmp_path / left).mkdir()
    load_checkpoint(tmp_path, engine)
    assert names(tmp_path) == [checkpoint(1), "latest"]


def test_the_best_may_be_another_by_the_time_it_is_looked_at(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under way moves the link and drops the old best between a reader's two looks."""
    save_checkpoint(tmp_path, Progress(1), engine, best=True)
    is_dir = Path.is_dir

    def moved(path: Path) -> bool:
        monkeypatch.setattr(Path, "is_dir", is_dir)
        for epoch in (2, 3):
            save_checkpoint(tmp_path, Progress(epoch), engine, keep=1, best=True)
        return path.is_dir()

    monkeypatch.setattr(Path, "is_dir", moved)
    assert find_checkpoint(tmp_path, "best").name == checkpoint(3)


def test_saving_the_same_state_again_leaves_it_in_place(tmp_path: Path, engine: Engine) -> None:
    """Whoever is interrupted twice in one evaluation does so; for no instant is the checkpoint gone."""
    save_checkpoint(tmp_path, Progress(1), engine)
    before = (tmp_path / checkpoint(1)).stat().st_ino
    save_checkpoint(tmp_path, Progress(1), engine)
    assert (tmp_path / checkpoint(1)).stat().st_ino == before
    assert names(tmp_path) == [checkpoint(1), "latest"]


def test_any_byte_of_progress_json_may_flip_and_nothing_false_is_read(tmp_path: Path, engine: Engine) -> None:
    save_checkpoint(tmp_path, Progress(12, 34, {"reconstruction": [5.678]}), engine)
    file = tmp_path / checkpoint(12, 34) / "progress.json"
    whole, written = read_manifest(file.parent), file.read_bytes()
    for position in range(len(written)):
        content = bytearray(written)
        content[position] ^= 1
        file.write_bytes(content)
        try:
            read = read_manifest(file.parent)
        except ValueError:
            continue
        assert {key: read[key] for key in ("epoch", "step", "loss_sums")} == {
            key: whole[key] for key in ("epoch", "step", "loss_sums")
        }, f"byte {position}"


def in_a_child(work: Callable[[], None], kill_before: int) -> bool:
    """Run `work` in a process that is killed before its n-th change of a file system. Returns: whether it was."""
    child = os.fork()
    if child == 0:
        changes = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.link", "shutil.rmtree", "open"}
        left = [kill_before]

        def count(event: str, _: tuple[object, ...]) -> None:
            if event in changes:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_save_killed_before_any_of_its_file_operations_loses_nothing(tmp_path: Path, engine: Engine) -> None:
    """What is loaded is the checkpoint before or the new one, links and all; then the same save succeeds."""
    seen, killed, n = set(), True, 0
    while killed:
        n += 1
        folder = tmp_path / str(n)
        for epoch in (1, 2):
            save_checkpoint(folder, Progress(epoch), engine, keep=1, best=True)
        killed = in_a_child(lambda f=folder: save_checkpoint(f, Progress(3), engine, keep=1, best=True), n)
        for path in folder.glob("epoch-*"):
            read_manifest(path)
        loaded = load_checkpoint(folder, engine).epoch
        assert target(folder, "latest") == target(folder, "best") == checkpoint(loaded)
        seen.add(loaded)
        save_checkpoint(folder, Progress(3), engine, keep=1, best=True)
        assert names(folder) == ["best", checkpoint(3), "latest"]
    assert n > 20, "that many operations were tried"
    assert seen == {2, 3}


@pytest.mark.parametrize("minutes", [0, 10])
def test_saving_at_every_step_changes_nothing(minutes: int, tmp_path: Path) -> None:
    """A variant of a user's own, with draws from torch's global random state, is stopped at its 11th step of 16."""
    variant = ("--variant", "tests.harness.noisy:Noisy", "--epochs", "2", "--set", "max_images=128")
    arguments = (*SHORT, *variant, "--set", "optimizer=adamw", "--set", "ema_decay=0.9")
    stopping = ("--set", f"checkpoint_minutes={minutes}")
    assert run(tmp_path / "whole", *arguments) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP_AT", "11")
        patch.setattr(Noisy, "steps", 0)
        assert run(tmp_path / "stopped", *arguments, *stopping) == 128 + signal.SIGTERM
    stopped = only_folder(tmp_path / "stopped")
    assert target(stopped.checkpoints, "latest") == checkpoint(1, 3)
    assert len([*stopped.checkpoints.glob("epoch-*-step-00000[1-9]")]) == (2 if minutes == 0 else 1)
    assert run(tmp_path / "stopped", *arguments, *stopping) == 0
    assert_same_run(stopped, only_folder(tmp_path / "whole"))


def test_random_numbers_of_two_processes_go_on_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank alone is signalled; they agree to stop at a step that both have done."""
    arguments = ("-m", "harness.train", *SHORT, "--variant", "tests.harness.noisy:Noisy", "--epochs", "2")
    finish(launch(tmp_path / "whole", 2, *arguments))
    monkeypatch.setenv("STOP_AT", "25")
    launch(tmp_path / "stopped", 2, *arguments).communicate(timeout=PATIENCE)
    monkeypatch.delenv("STOP_AT")
    stopped = only_folder(tmp_path / "stopped")
    assert target(stopped.checkpoints, "latest") == checkpoint(1, 16)
    finish(launch(tmp_path / "stopped", 2, *arguments))
    assert_same_run(stopped, only_folder(tmp_path / "whole"))
