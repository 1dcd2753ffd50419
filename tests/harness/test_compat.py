"""What is private in other packages is still there, and still needed."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import optimizer
from accelerate.state import AcceleratorState
from submitit import SlurmExecutor

from harness.compat import render_sbatch_script
from harness.launch.processes import build_accelerator
from tests.engines import build_engine
from tests.harness.test_train import ROOT
from tests.variants.test_every_variant import build_default

BUILD_OPTIMISERS = """
import sys
from torch import nn, optim
from harness.training.optimizer import PhasedAdam
PhasedAdam({"phase": [*nn.Linear(2, 2).parameters()]}, 0.1).state_dict()
print("torch._dynamo" in sys.modules)
optim.SGD(nn.Linear(2, 2).parameters())
print("torch._dynamo" in sys.modules)
"""


def test_an_optimiser_of_ours_starts_without_the_compiler() -> None:
    """And one of PyTorch's does not; once it does, LeanOptimizer has a reason less."""
    command = [sys.executable, "-c", BUILD_OPTIMISERS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_a_process_trains_in_one_precision_after_another() -> None:
    build_accelerator()
    AcceleratorState._shared_state["_mixed_precision"] = "fp16"  # as a run on a GPU leaves it
    assert build_accelerator().mixed_precision == "no"


def test_a_step_looks_for_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of Accelerate's own does; once it does not, there is nothing to spare."""
    engine, x = build_engine(build_default("aae", "mlp")), torch.rand(4, 3, 32, 32)
    engine.step(x, 0)
    looked: list[str] = []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: looked.append(name) or find_spec(name, *more))
    engine.step(x, 1)
    assert looked == []
    monkeypatch.setattr(optimizer, "is_lomo_available", inspect.unwrap(optimizer.is_lomo_available))
    engine.step(x, 2)
    assert set(looked) == {"lomo_optim"}


@pytest.mark.parametrize(("n_jobs", "lines"), [(1, []), (3, ["#SBATCH --array=0-2%2"])])
def test_a_script_can_be_rendered_without_being_submitted(
    n_jobs: int, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlurmExecutor, "affinity", lambda _: 2)
    executor = SlurmExecutor(tmp_path)
    executor.update_parameters(job_name="tiny", array_parallelism=2)
    script = render_sbatch_script(executor, n_jobs)
    assert "#SBATCH --job-name=tiny" in script
    assert "submitit.core._submit" in script
    assert [line for line in script.splitlines() if "--array" in line] == lines
    assert not list(tmp_path.iterdir())
