"""What is private in other packages is still there, and still needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from submitit import SlurmExecutor

from harness.compat import render_sbatch_script
from harness.launch.processes import build_accelerator
from tests.harness.test_train import ROOT

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
