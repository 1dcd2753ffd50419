"""Lower precision computes; it stores, sums and scores nothing."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.config import build_config
from harness.errors import InputError
from harness.evaluation.classifier import DomainClassifier
from harness.launch.processes import Processes, build_accelerator
from harness.precision import casting, check_precision
from harness.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.training.engine import Engine
from harness.training.optimizer import PhasedAdam
from tests.engines import build_engine
from tests.harness.test_train import SHORT, only_folder, run
from tests.variants.test_every_variant import build_default
from variants import VARIANTS, build
from variants.context import Context
from variants.layers import Equalised


def batches(n: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(32, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(n)]


def train(name: str, precision: str) -> tuple[Any, list[dict[str, Tensor]]]:
    engine = build_engine(build_default(name, "mlp"), mixed_precision=precision, learning_rate=1e-4)
    return engine, [engine.step(x, step) for step, x in enumerate(batches())]


class TestBfloat16:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_trains_every_variant_nearly_as_float32_does(self, name: str) -> None:
        _, expected = train(name, "no")
        _, found = train(name, "bf16")
        for ours, theirs in zip(found, expected, strict=True):
            for phase, loss in ours.items():
                torch.testing.assert_close(loss, theirs[phase], rtol=0.03, atol=0.03, msg=lambda m, p=phase: p + m)
        assert any(not torch.equal(a[phase], b[phase]) for a, b in zip(found, expected, strict=True) for phase in a)

    @pytest.mark.parametrize("name", VARIANTS)
    def test_losses_weights_and_moments_are_float32(self, name: str) -> None:
        engine, losses = train(name, "bf16")
        tensors = [*engine.variant.state_dict().values(), *engine.optimizer_tensors().values()]
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
        assert {loss.dtype for step in losses for loss in step.values()} == {torch.float32}

    def test_a_run_is_scored_and_measured_in_float32(self, tmp_path: Path) -> None:
        """Before training the weights are those of float32: so are scores and posterior, to the bit."""
        first = {}
        for precision in ("no", "bf16"):
            assert run(tmp_path / precision, *SHORT, "--epochs", "1", "--mixed-precision", precision) == 0
            folder = only_folder(tmp_path / precision)
            first[precision] = {k: v for k, v in folder.read_records()[0].items() if not k.startswith("time/")}
            assert folder.read_config()["mixed_precision"] == precision
        assert first["bf16"] == first["no"]


def test_the_precision_is_part_of_a_runs_identity() -> None:
    ids = {build_config({"mixed_precision": precision}).run_id for precision in ("no", "tf32", "bf16", "fp16")}
    assert len(ids) == 4


class TestTensorFloat32:
    def test_holds_for_forward_and_backward_passes_and_not_after_them(self) -> None:
        engine = build_engine(build_default("aae", "mlp"))
        engine.config = engine.config.model_copy(update={"mixed_precision": "tf32"})
        layer = engine.variant.get_submodule("decoder.body.0")
        seen: set[tuple[str, object, object]] = set()

        def note(name: str) -> None:
            seen.add((name, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))

        layer.register_forward_hook(lambda *_: note("forward"))
        layer.get_parameter("weight").register_hook(lambda _: note("backward"))
        engine.step(batches()[0], 0)
        assert seen == {("forward", True, True), ("backward", True, True)}
        note("after")
        assert ("after", False, False) in seen

    def test_is_off_from_the_start(self) -> None:
        """PyTorch allows it for convolutions, and a reference is featurised before the first step."""
        torch.backends.cudnn.allow_tf32 = True
        build_accelerator()
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic, "a resume is to be bit-identical"

    def test_needs_a_gpu_of_its_generation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
        with pytest.raises(InputError, match="Ampere"):
            check_precision("tf32")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        check_precision("tf32")


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(precision: str, tmp_path: Path, capfd: Any) -> None:
    if torch.cuda.is_available():
        return
    assert run(tmp_path / "runs", *SHORT, "--mixed-precision", precision) == 2
    assert "needs a" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


class TestFloat16:
    """What it asks of a step, on a CPU: a scaler, here without the casts, which must then change nothing."""

    @pytest.fixture
    def build_scaled(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
        def build(**fields: Any) -> Engine:
            config = build_config({"learning_rate": 1e-3, **fields})
            accelerator: Any = build_accelerator("no", config.gradient_accumulation, config.gradient_clipping)
            monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
            accelerator.autocast_handler = AutocastKwargs(enabled=False)
            accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu")
            return Engine(Processes(accelerator), build_default("aae", "mlp"), config)

        return build

    @pytest.mark.parametrize("fields", [{}, {"gradient_clipping": 0.1, "gradient_accumulation": 2}])
    def test_scaled_training_is_training(
        self, fields: dict[str, Any], build_scaled: Callable[..., Engine], tmp_path: Path
    ) -> None:
        plain = build_engine(build_default("aae", "mlp"), **fields)
        expected = [plain.step(x, step) for step, x in enumerate(batches())]
        scaled = build_scaled(**fields)
        assert [scaled.step(x, step) for step, x in enumerate(batches())] == expected
        ours, theirs = scaled.variant.state_dict(), plain.variant.state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    def test_a_checkpoint_keeps_the_scale(self, build_scaled: Callable[..., Engine], tmp_path: Path) -> None:
        engine = build_scaled()
        engine.step(batches()[0], 0)
        scaler: Any = engine.processes.accelerator.scaler
        scaler.update(2.0**10)
        save_checkpoint(tmp_path, Progress(1), engine)
        scaler.update(1.0)
        load_checkpoint(tmp_path, engine)
        assert scaler.get_scale() == 2**10

    def test_is_refused_under_deepspeed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setattr("harness.launch.processes.check_precision", lambda _: None)
        for name in ("DS_ACCELERATOR", "TORCH_EXTENSIONS_DIR"):
            monkeypatch.setenv(name, os.environ.get(name, "cpu"))
        with pytest.raises(InputError, match="use bf16, or launch without --use_deepspeed"):
            build_accelerator("fp16")


class Casting(Context):
    def casting(self) -> AbstractContextManager[None]:
        return casting("fp16", torch.device("cuda"))


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("name", VARIANTS)
def test_forward_passes_in_float16_stay_on_the_gpu(
    name: str, architecture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without data stand for a GPU's: they cannot be read, and refuse to be mixed with those of a CPU."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    dtypes: set[torch.dtype] = set()
    with FakeTensorMode(), torch.device("cuda"):
        variant = build(name, VARIANTS[name].Options(), (3, 32, 32), 10, architecture)
        variant.use(Casting(features=DomainClassifier(1, 10).activations))
        for layer in (module for module in variant.modules() if isinstance(module, nn.Linear | nn.Conv2d | Equalised)):
            layer.register_forward_hook(lambda _, inputs, output: dtypes.add(output.dtype))
        for phase in variant.phases():
            loss = variant(phase, torch.empty(4, 3, 32, 32))
            assert (loss.device.type, loss.dtype, loss.shape) == ("cuda", torch.float32, ())
    assert dtypes == {torch.float16}


class TestOneGradScalerForAllPhases:
    """As under fp16: one optimiser with a phase's moments at a time, one scaler, one step for each backward."""

    @pytest.fixture
    def layer(self) -> nn.Linear:
        torch.manual_seed(0)
        return nn.Linear(4, 2)

    def update(self, layer: nn.Linear, optimizer: PhasedAdam, scaler: Any, phase: str, factor: float = 1.0) -> None:
        optimizer.phase = phase
        optimizer.zero_grad()
        scaler.scale(layer(torch.ones(3, 4)).square().sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    def test_scaling_changes_nothing(self, layer: nn.Linear) -> None:
        parameters = {"one": list(layer.parameters()), "two": [layer.weight]}
        start = {name: p.detach().clone() for name, p in layer.named_parameters()}
        results = []
        for enabled in (True, False):
            layer.load_state_dict(start)
            optimizer = PhasedAdam(parameters, learning_rate=0.01)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024, enabled=enabled)
            for _ in range(3):
                for phase in parameters:
                    self.update(layer, optimizer, scaler, phase)
            results.append([p.detach().clone() for p in layer.parameters()])
        for scaled, plain in zip(*results, strict=True):
            torch.testing.assert_close(scaled, plain, rtol=1e-6, atol=1e-7)

    def test_an_overflow_skips_one_phases_update_and_halves_the_scale_for_all(self, layer: nn.Linear) -> None:
        optimizer = PhasedAdam({"one": list(layer.parameters()), "two": list(layer.parameters())}, learning_rate=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        for phase in ("one", "two"):
            self.update(layer, optimizer, scaler, phase)
        before = [p.detach().clone() for p in layer.parameters()]
        moments = {key: value.clone() for key, value in optimizer.state[layer.weight].items()}
        self.update(layer, optimizer, scaler, "one", factor=float("inf"))
        assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
        assert all(torch.equal(moments[key], value) for key, value in optimizer.state[layer.weight].items())
        assert scaler.get_scale() == 512
        self.update(layer, optimizer, scaler, "two")
        assert not torch.equal(before[0], layer.weight)
        assert optimizer.state[layer.weight]["two/step"] == 2

    def test_its_step_reads_nothing_back(self, layer: nn.Linear, monkeypatch: pytest.MonkeyPatch) -> None:
        optimizer = PhasedAdam({"one": list(layer.parameters())}, learning_rate=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024)
        self.update(layer, optimizer, scaler, "one")

        def forbidden(*_: Any) -> None:
            raise AssertionError("the step waits for the device")

        monkeypatch.setattr(Tensor, "item", forbidden)
        self.update(layer, optimizer, scaler, "one")


@pytest.mark.parametrize(("field", "value"), [("mixed_precision", "bf61"), ("optimizer", "adamm")])
def test_an_unknown_precision_or_optimiser_is_explained(field: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{field} = '{value}'.*(bf16|adamw)"):
        build_config({field: value})
