"""Seeds side by side in one model: each trains as it does alone, as near as float32 rounds."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.config import RunConfig, build_config
from harness.errors import DivergedError, InputError, Interrupted
from harness.record import RunFolder
from harness.train import train
from harness.training.engine import Engine
from harness.training.side_by_side import SideBySide
from harness.training.stepping import WARM_UP_STEPS
from harness.training.together import train_together
from tests.captures import PretendedCaptures
from tests.engines import build_engine
from tests.harness.test_train import assert_same_run, evaluated, final_weights, untimed
from tests.harness.training.test_training_options import OPTIONS
from tests.variants.test_every_variant import build_default
from variants import VARIANTS

SEEDS, B, STEPS = 2, 8, 3


@pytest.fixture
def batches() -> Tensor:
    """(steps, S, B, C, H, W)."""
    return torch.rand(STEPS, SEEDS, B, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def build_seed(name: str, architecture: Any, seed: int, **fields: Any) -> Engine:
    variant = build_default(name, architecture)
    torch.manual_seed(seed)
    for module in variant.modules():
        reset: Any = getattr(module, "reset_parameters", lambda: None)
        reset()
    return build_engine(variant, seed=seed, learning_rate=1e-5, **fields)


def build_seeds(name: str, architecture: Any, **fields: Any) -> list[Engine]:
    return [build_seed(name, architecture, seed, **fields) for seed in range(SEEDS)]


def train_alone(engines: list[Engine], batches: Tensor) -> Tensor:
    """The losses of each step, seed and phase."""
    return torch.stack(
        [
            torch.stack([stack(engine.step(x, step)) for engine, x in zip(engines, images, strict=True)])
            for step, images in enumerate(batches)
        ]
    )


def train_side_by_side(engines: list[Engine], batches: Tensor, name: str, architecture: Any) -> Tensor:
    model = SideBySide(engines, build_default(name, architecture))
    return torch.stack(
        [
            torch.stack([stack(losses) for losses in model.step([*images], [step] * SEEDS)])
            for step, images in enumerate(batches)
        ]
    )


def stack(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([*losses.values()]).clone()


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variants_seeds_train_as_they_do_alone(name: str, architecture: Any, batches: Tensor) -> None:
    alone, together = (build_seeds(name, architecture) for _ in range(2))
    expected, found = train_alone(alone, batches), train_side_by_side(together, batches, name, architecture)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-4)
    for one, other in zip(alone, together, strict=True):
        for (key, buffer), same in zip(one.variant.named_buffers(), other.variant.buffers(), strict=True):
            torch.testing.assert_close(same, buffer, rtol=2e-3, atol=1e-3, msg=lambda m, key=key: f"{key}: {m}")
    assert not torch.allclose(found[0, 0], found[0, 1])


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_with_any_option(fields: dict[str, Any], batches: Tensor) -> None:
    alone, together = (build_seeds("equal_linear", "mlp", **fields) for _ in range(2))
    expected, found = train_alone(alone, batches), train_side_by_side(together, batches, "equal_linear", "mlp")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(dict(other.variant.state_dict()), dict(one.variant.state_dict()), rtol=0, atol=1e-6)
        if one.average is not None and other.average is not None:
            torch.testing.assert_close(other.average.averages, one.average.averages, rtol=0, atol=1e-6)


def test_in_bfloat16_nearly_so(batches: Tensor) -> None:
    alone, together = (build_seeds("aae", "mlp", mixed_precision="bf16") for _ in range(2))
    expected, found = train_alone(alone, batches), train_side_by_side(together, batches, "aae", "mlp")
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)


def test_a_captured_step_is_the_same_to_the_bit(batches: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    many = torch.cat([batches, batches])
    eager = train_side_by_side(build_seeds("n_iter", "mlp", step="eager"), many, "n_iter", "mlp")
    captures = PretendedCaptures(monkeypatch)
    captured = train_side_by_side(build_seeds("n_iter", "mlp"), many, "n_iter", "mlp")
    assert torch.equal(captured, eager)
    assert (captures.captured, captures.launched) == (1, len(many) - WARM_UP_STEPS)


def test_whoever_goes_on_alone_has_its_own_weights(batches: Tensor) -> None:
    """What an engine does with its weights, as loading them, it does to its own seed."""
    engines = build_seeds("equal_linear", "mlp")
    train_side_by_side(engines, batches, "equal_linear", "mlp")
    kept = {key: tensor.clone() for key, tensor in engines[1].variant.state_dict().items()}
    engines[0].load_tensors(build_seed("equal_linear", "mlp", 7).variant.state_dict(), {}, None)
    engines[0].step(batches[0, 0], STEPS)
    for key, tensor in engines[1].variant.state_dict().items():
        assert torch.equal(tensor, kept[key]), key


def build(seed: int, **fields: Any) -> RunConfig:
    given = {"preset": "demo", "max_images": 320, "batch_size": 16, "epochs": 2, "eval_every": 2, "n_fake": 64}
    return build_config({**given, "variant": "equal_linear", "seed": seed, **fields})


class TestRuns:
    def test_are_recorded_as_they_are_alone(self, tmp_path: Path) -> None:
        configs = [build(seed) for seed in range(SEEDS)]
        assert train_together(configs, tmp_path / "together") == [None] * SEEDS
        for config in configs:
            alone = train(config, tmp_path / "alone")
            found = RunFolder(tmp_path / "together" / config.run_id)
            assert found.read_status()["state"] == "done"
            assert found.read_environment()["seeds_at_once"] == SEEDS
            for expected, record in zip(untimed(alone), untimed(found), strict=True):
                assert_nearly(record, expected)
            for epoch in (0, 2):
                expected, scores = evaluated(alone, epoch), evaluated(found, epoch)
                assert scores["eval/fid"] == pytest.approx(expected["eval/fid"], rel=1e-3)
            for key, tensor in final_weights(alone).items():
                torch.testing.assert_close(final_weights(found)[key], tensor, rtol=1e-4, atol=1e-5)

    def test_seconds_are_shared_out(self, tmp_path: Path) -> None:
        """Of what all of them take together, each has its part; evaluations of others are no part of training."""
        train_together([build(seed, variant="aae") for seed in range(SEEDS)], tmp_path)
        seconds = [untimed_seconds(RunFolder(folder)) for folder in tmp_path.iterdir()]
        assert max(seconds) < 2 * min(seconds)

    def test_resume_alone_or_in_company(self, tmp_path: Path) -> None:
        """One was further than the others, and goes on beside them to the same end."""
        longer = [build(seed, epochs=4) for seed in range(3)]
        train(build(0), tmp_path / "parts")
        assert train_together([build(1), build(2)], tmp_path / "parts") == [None, None]
        train(build(1, epochs=3), tmp_path / "parts")
        assert train_together(longer, tmp_path / "parts") == [None] * 3
        for config in longer:
            alone = train(config, tmp_path / "alone")
            found = RunFolder(tmp_path / "parts" / config.run_id)
            for expected, record in zip(alone.read_records(), found.read_records(), strict=True):
                for name in (name for name in expected if name.startswith("loss/")):
                    assert record[name] == pytest.approx(expected[name], rel=1e-3), name

    def test_one_that_fails_leaves_the_others_to_go_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configs = [build(seed) for seed in range(3)]
        damaged = RunFolder(tmp_path / configs[2].run_id)
        damaged.path.mkdir(parents=True)
        damaged.config_file.write_text("{")
        diverge_in_second_epoch(monkeypatch, seed=0)
        ends = train_together(configs, tmp_path)
        assert RunFolder(tmp_path / configs[1].run_id).read_environment()["seeds_at_once"] == 2
        assert isinstance(ends[0], DivergedError)
        assert ends[1] is None
        assert "is damaged" in str(ends[2])
        assert [RunFolder(tmp_path / config.run_id).read_status()["state"] for config in configs[:2]] == [
            "failed",
            "done",
        ]

    def test_an_interrupt_saves_all_of_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configs = [build(seed) for seed in range(2)]
        interrupt_at_step(monkeypatch, 25)  # in the second epoch
        ends = train_together(configs, tmp_path / "parts")
        assert all(isinstance(end, Interrupted) for end in ends)
        folders = [RunFolder(tmp_path / "parts" / config.run_id) for config in configs]
        assert [folder.read_status()["state"] for folder in folders] == ["queued", "queued"]
        monkeypatch.undo()
        assert train_together(configs, tmp_path / "parts") == [None, None]
        for config, folder in zip(configs, folders, strict=True):
            for expected, record in zip(untimed(train(config, tmp_path / "alone")), untimed(folder), strict=True):
                assert_nearly(record, expected)

    def test_what_is_finished_is_left_as_it_is(self, tmp_path: Path) -> None:
        folder = train(build(0), tmp_path)
        before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
        assert train_together([build(0), build(1)], tmp_path) == [None, None]
        assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before

    @pytest.mark.parametrize(
        ("own", "why"),
        [("tests.harness.noisy:Noisy", "randomness"), ("tests.harness.noisy:Waits", "item()")],
    )
    def test_a_variant_that_vmap_cannot_take_trains_singly_with_a_word(
        self, own: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        configs = [build(seed, variant=own, epochs=1) for seed in range(2)]
        assert train_together(configs, tmp_path / "together") == [None, None]
        assert re.search(rf"2 seeds are trained one after another: .*{re.escape(why)}", caplog.text)
        for config in configs:
            alone = train(config, tmp_path / "alone")
            found = RunFolder(tmp_path / "together" / config.run_id)
            assert_same_run(found, alone)
            assert found.read_environment()["seeds_at_once"] == 1

    def test_runs_that_send_to_a_tracker_train_singly(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        configs = [build(seed, epochs=1, trackers=["tensorboard"]) for seed in range(2)]
        assert train_together(configs, tmp_path) == [None, None]
        assert "2 seeds are trained one after another: a tracker follows one run at a time" in caplog.text


class TestBadInput:
    def test_runs_that_differ_in_more_than_the_seed(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="these differ in learning_rate"):
            train_together([build(0), build(1, learning_rate=0.01)], tmp_path)
        assert not [*tmp_path.iterdir()]

    def test_the_same_seed_twice(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="two of these have the same"):
            train_together([build(0), build(0)], tmp_path)


def assert_nearly(record: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every number, but for what is counted in bins."""
    assert {*record} == {*expected}
    for name, value in expected.items():
        if isinstance(value, float):
            assert record[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def untimed_seconds(folder: RunFolder) -> float:
    return sum(record.get("time/epoch_seconds", 0) for record in folder.read_records())


def diverge_in_second_epoch(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    def step(self: SideBySide, images: Any, steps: Any, original: Any = SideBySide.step) -> Any:
        losses = original(self, images, steps)
        for engine, of_seed, number in zip(self.engines, losses, steps, strict=True):
            if engine.config.seed == seed and number >= 20:
                of_seed["reconstruction"] = of_seed["reconstruction"] * float("nan")
        return losses

    monkeypatch.setattr(SideBySide, "step", step)


def interrupt_at_step(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    def step(self: SideBySide, images: Any, steps: Any, original: Any = SideBySide.step) -> Any:
        if steps[0] == at:
            signal.raise_signal(signal.SIGTERM)
        return original(self, images, steps)

    monkeypatch.setattr(SideBySide, "step", step)
