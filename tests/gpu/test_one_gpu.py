"""What only a GPU can show, in a few minutes on one: `make gpu`. `make test` leaves it out: its machines have none."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engines import build_engine
from tests.harness.launch.test_processes import finish
from tests.harness.test_train import PATIENCE, ROOT, assert_same_run, only_folder, untimed, wait_for_epoch
from tests.variants.test_every_variant import build_default
from variants import VARIANTS

STEPS = 12
B = 256
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
    engine = build_engine(variant, **fields)
    x = torch.rand(STEPS, B, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    losses = [torch.stack(list(engine.step(batch, step).values())).clone() for step, batch in enumerate(x.to("cuda"))]
    return torch.stack(losses).cpu()


def run(out: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> Any:
    command = [sys.executable, "-m", *launcher, "harness.train", *OPTIONS, *arguments, "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_lower_precisions_train_nearly_as_float32_does(name: str, precision: str) -> None:
    expected, found = train(name), train(name, mixed_precision=precision)
    assert found.isfinite().all()
    torch.testing.assert_close(found[:3], expected[:3], rtol=0.05, atol=0.05)
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_captured_step_trains_as_an_eager_one(architecture: str, precision: str) -> None:
    eager = train("aae", architecture, mixed_precision=precision)
    captured = train("aae", architecture, mixed_precision=precision, compile=True)
    torch.testing.assert_close(captured, eager, rtol=0.02, atol=0.02)


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


def test_throughput(capsys: pytest.CaptureFixture[str]) -> None:
    """Images a second of one step of the paper's AAE, each way to train beside plain float32: printed, to be read."""
    speeds = {}
    for fields in ({}, {"mixed_precision": "tf32"}, {"mixed_precision": "bf16"}, {"compile": True}):
        engine = build_engine(build_default("aae", "mlp"), **fields)
        x = torch.rand(1024, 3, 32, 32, device="cuda") * 2 - 1
        for step in range(20):
            engine.step(x, step)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for step in range(20, 220):
            engine.step(x, step)
        torch.cuda.synchronize()
        speeds[str(fields)] = 200 * len(x) / (time.perf_counter() - started)
    with capsys.disabled():
        print("".join(f"\n{name}: {speed:,.0f} images/s, {speed / speeds['{}']:.2f}" for name, speed in speeds.items()))
    assert speeds["{'compile': True}"] > speeds["{}"]


def test_a_runs_energy_lies_between_that_of_an_idle_gpu_and_its_limit(tmp_path: Path) -> None:
    started = time.monotonic()
    finish(run(tmp_path))
    seconds = time.monotonic() - started
    kwh = only_folder(tmp_path).read_status()["energy_kwh"]
    assert 0 < kwh < 1.2 * seconds / 3600
