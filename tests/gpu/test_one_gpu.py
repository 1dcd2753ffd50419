"""What only a GPU can show, in a few minutes on one: `make gpu`. `make test` leaves it out: its machines have none."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import capture
from harness.training.engine import Engine
from tests.benchmarks.test_training_speed import BareLoop
from tests.engines import build_engine
from tests.harness.launch.test_processes import finish, free_port
from tests.harness.test_train import PATIENCE, ROOT, assert_same_run, only_folder, untimed, wait_for_epoch
from tests.harness.training.test_training_options import OPTIONS as OPTIONS_OF_TRAINING
from tests.variants.test_every_variant import build_default
from variants import VARIANTS
from variants.aae import AAE

STEPS = 12
B = 256
PIPED: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
OPTIONS = ("--preset", "demo", "--epochs", "6", "--set", "checkpoint_every=2")


@pytest.fixture(autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("these tests need an NVIDIA GPU, and torch sees none")
    return torch.device("cuda")


def train(name: str, architecture: Any = "mlp", **fields: Any) -> Tensor:
    """The losses of each step and phase, on the CPU."""
    variant = build_default(name, architecture)
    network: Any = variant.context._features
    network.__self__.to("cuda")
    return train_steps(build_engine(variant, **fields))


def train_steps(engine: Engine) -> Tensor:
    x = torch.rand(STEPS, B, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    losses = [torch.stack(list(engine.step(batch, step).values())).clone() for step, batch in enumerate(x.to("cuda"))]
    return torch.stack(losses).cpu()


def run(out: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> Any:
    command = [sys.executable, "-m", *launcher, "harness.train", *OPTIONS, *arguments, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **PIPED)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_lower_precisions_train_nearly_as_float32_does(name: str, precision: str) -> None:
    expected, found = train(name), train(name, mixed_precision=precision)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:3], expected[:3], rtol=0.05, atol=0.05)
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_captured_step_trains_as_an_eager_one_to_the_bit(name: str, architecture: Any) -> None:
    eager, captured = train(name, architecture, step="eager"), train(name, architecture, step="graph")
    assert torch.equal(captured, eager)


@pytest.mark.parametrize(
    "fields",
    [*OPTIONS_OF_TRAINING, *({"mixed_precision": precision} for precision in ("tf32", "bf16", "fp16"))],
    ids=str,
)
def test_so_it_does_with_any_option(fields: dict[str, Any]) -> None:
    assert torch.equal(train("n_iter", step="graph", **fields), train("n_iter", step="eager", **fields))


class ReadsBack(AAE):
    """Its loss waits for the device."""

    def adversary_loss(self, x: Tensor) -> Tensor:
        loss = super().adversary_loss(x)
        return loss * 1.0 if loss.item() > 0 else loss


def test_a_step_that_waits_for_the_device_runs_eagerly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    losses = []
    for step in ("auto", "eager"):
        torch.manual_seed(0)
        losses.append(train_steps(build_engine(ReadsBack((3, 32, 32), 10, ReadsBack.Options()), step=step)))
    assert torch.equal(*losses)
    assert [record.message[:49] for record in caplog.records] == ["the step cannot be captured as a CUDA graph (CUDA"]


def test_compiled_modules_train_nearly_as_others_do() -> None:
    torch.testing.assert_close(train("aae", step="compiled"), train("aae", step="eager"), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("variant", ["aae", "equal_linear"])
def test_two_processes_on_one_gpu_train_over_gloo(variant: str, tmp_path: Path) -> None:
    """Graphs between the all-reduces. Without BatchNorm, which sees a process's own share, they train as one does."""
    arguments = ("--set", "epochs=1", "--variant", variant)
    finish(run(tmp_path / "one", *arguments))
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = []
    for rank in range(2):
        alone = {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        command = [sys.executable, "-m", "tests.gpu.over_gloo", *OPTIONS, *arguments, "--out", str(tmp_path / "two")]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | meeting | alone, text=True, **PIPED))
    for process in ranks:
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, said
        assert "cannot be captured" not in said
    one, two = (untimed(only_folder(tmp_path / name))[-1] for name in ("one", "two"))
    tolerance = 1e-4 if variant == "equal_linear" else 0.1
    for key in (key for key in one if key.startswith("loss/")):
        assert two[key] == pytest.approx(one[key], rel=tolerance), key


@pytest.mark.parametrize("arguments", [(), ("--set", "architecture=conv"), ("--mixed-precision", "fp16")], ids=str)
def test_a_stopped_run_resumes_bit_identically(arguments: tuple[str, ...], tmp_path: Path) -> None:
    finish(run(tmp_path / "whole", *arguments))
    process = run(tmp_path / "stopped", *arguments)
    wait_for_epoch(tmp_path / "stopped", 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert only_folder(tmp_path / "stopped").read_status()["state"] == "queued"
    finish(run(tmp_path / "stopped", *arguments))
    assert_same_run(only_folder(tmp_path / "stopped"), only_folder(tmp_path / "whole"))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_zero_trains_as_plain_training_does(precision: str, tmp_path: Path) -> None:
    arguments = ("--mixed-precision", precision, "--set", "epochs=1")
    zero = ("accelerate.commands.launch", "--use_deepspeed", "--zero_stage", "1", "--num_processes", "1", "-m")
    finish(run(tmp_path / "plain", *arguments))
    finish(run(tmp_path / "zero", *arguments, launcher=zero))
    plain, found = (untimed(only_folder(tmp_path / name))[-1] for name in ("plain", "zero"))
    for key in (key for key in plain if key.startswith("loss/")):
        assert found[key] == pytest.approx(plain[key], rel=1e-4), key


def measure(step: Callable[[Tensor], Any], size: int = 32, n: int = 1024) -> tuple[float, float]:
    """Seconds of the first ten steps, in which whatever is set up is set up, and of one of 200 after them."""
    x = torch.rand(n, 3, size, size, device="cuda") * 2 - 1
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        step(x)
    torch.cuda.synchronize()
    warm = time.perf_counter()
    for _ in range(200):
        step(x)
    torch.cuda.synchronize()
    return warm - started, (time.perf_counter() - warm) / 200


def harness_step(architecture: Any = "mlp", size: int = 32, **fields: Any) -> Callable[[Tensor], Any]:
    engine = build_engine(build_default("aae", architecture, size), **fields)
    steps = itertools.count()
    return lambda x: engine.step(x, next(steps))


def test_speed_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    """The paper's AAE, each way to run its steps, beside a bare loop of the three phases, eager and in a CUDA graph."""
    bare = BareLoop("cuda", fused=True, capturable=True)
    x = torch.rand(1024, 3, 32, 32, device="cuda") * 2 - 1
    _, bare_eager = measure(bare.step)
    launch, _ = capture.capture(lambda: bare.step(x))
    _, bare_graph = measure(lambda batch: (x.copy_(batch), launch()))
    ways: dict[str, tuple[float, float]] = {}
    for name, fields in {
        "eager": {"step": "eager"},
        "auto": {},
        "auto, tf32": {"mixed_precision": "tf32"},
        "auto, bf16": {"mixed_precision": "bf16"},
        "compiled": {"step": "compiled"},
    }.items():
        ways[name] = measure(harness_step(**fields))
    conv = {"mixed_precision": "bf16", "architecture": "conv", "size": 64}
    conv_eager, conv_auto = (measure(harness_step(step=step, **conv), 64, 256)[1] for step in ("eager", "auto"))
    with capsys.disabled():
        print(f"\nbare loop {bare_eager * 1e3:.2f} ms a step, in a CUDA graph {bare_graph * 1e3:.2f} ms")
        for name, (setting_up, seconds) in ways.items():
            print(f"{name}: {seconds * 1e3:.2f} ms a step, set up in {setting_up:.1f} s")
        print(f"conv, 64 px, bf16: eager {conv_eager * 1e3:.2f} ms a step, auto {conv_auto * 1e3:.2f} ms")
    assert ways["eager"][1] <= bare_eager
    assert ways["auto"][1] <= 0.85 * bare_graph
    assert ways["auto"][0] <= 3
    assert conv_auto <= 0.25 * conv_eager


def test_a_runs_energy_lies_between_that_of_an_idle_gpu_and_its_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    finish(run(tmp_path))
    seconds = time.monotonic() - started
    kwh = only_folder(tmp_path).read_status()["energy_kwh"]
    assert 0 < kwh < 1.2 * seconds / 3600
