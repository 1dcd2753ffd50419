"""What this project takes of other packages that they do not promise to keep: here and nowhere else.

Each says where it was seen last, why it is worth it, and which test fails when it goes.
"""

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.adam import adam as functional_adam

if TYPE_CHECKING:
    from submitit import SlurmExecutor

__all__ = [
    "LeanOptimizer",
    "forget_accelerator",
    "functional_adam",
    "refresh_master_weights",
    "render_sbatch_script",
    "spare_lookups",
]

# functional_adam (torch 2.14.1): Adam's fused kernel without its optimiser, which keeps one set of moments a parameter,
# where ours needs one for each phase. Written out in torch's operations it takes 3.3 times as long on a CPU.
# tests/harness/training/test_engine.py: test_phased_adam_is_adam_for_one_phase.


class LeanOptimizer(torch.optim.Optimizer):
    """An optimiser that imports no compiler and that lets a GradScaler scale on the device (torch 2.14.1).

    PyTorch wraps Optimizer's methods in what imports its compiler, to keep the compiler out of them: a second of every
    run's start. tests/harness/test_compat.py: test_an_optimiser_of_ours_starts_without_the_compiler.

    With `_step_supports_amp_scaling` a GradScaler sets `grad_scale` and `found_inf` for the time of a step: tensors,
    which fused kernels read. Else it waits for the device in every phase under fp16, and no step can be captured.
    tests/harness/training/test_precision.py: test_its_step_reads_nothing_back.
    """

    _step_supports_amp_scaling = True

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


def forget_accelerator() -> None:
    """Let this process have an Accelerator of another precision than the one before (accelerate 1.15.0).

    Accelerate keeps one state for all Accelerators of a process and refuses a second that differs; a script that
    trains one run after another would need a process for each. The process group stays.
    tests/harness/test_compat.py: test_a_process_trains_in_one_precision_after_another.
    """
    from accelerate.state import AcceleratorState, GradientState  # noqa: PLC0415 (slow; plans of sweeps need no more)

    AcceleratorState._reset_state()
    GradientState._reset_state()


def spare_lookups() -> None:
    """Let Accelerate ask once, and not twice in each phase, whether a package is there that nobody here uses.

    Python looks for it on the disk each time: a tenth of what a small step costs its host (accelerate 1.15.0).
    tests/harness/test_compat.py: test_a_step_looks_for_no_package.
    """
    from accelerate import optimizer  # noqa: PLC0415 (slow; plans of sweeps need no more)

    if inspect.isfunction(optimizer.is_lomo_available):
        optimizer.is_lomo_available = cache(optimizer.is_lomo_available)


def refresh_master_weights(engine: Any) -> None:
    """Have DeepSpeed's optimiser take over weights that were loaded into its engine's module (deepspeed 0.19.8).

    Its checkpoints would do so by themselves, and hold everything twice, in a form of their own.
    tests/harness/launch/test_deepspeed.py: test_a_stopped_run_resumes_bit_identically.
    """
    engine.optimizer.refresh_fp32_params()


def render_sbatch_script(executor: "SlurmExecutor", n_jobs: int) -> str:
    """What submitit would give to sbatch for an array of n jobs, for a plan to be looked at (submitit 1.5.4).

    The public way to it submits. tests/harness/test_compat.py: test_a_script_can_be_rendered_without_being_submitted.
    """
    if n_jobs > 1:
        executor.parameters["map_count"] = n_jobs
    return executor._make_submission_file_text(executor._submitit_command_str, "")
