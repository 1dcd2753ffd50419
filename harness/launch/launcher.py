"""What a launcher asked for, by its environment variables: checked before anything starts, and DeepSpeed's settings.

accelerate launch, torchrun and the supervisors of slurm/ all speak through the same variables. What would make other
numbers of a run (precision, clipping, accumulation) is part of the run's identity and given to the run; a launcher that
was told otherwise is refused and not obeyed.
"""

import importlib.util
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.data.cache import cache_folder
from harness.errors import InputError
from harness.precision import Precision

if TYPE_CHECKING:
    from accelerate.utils import DeepSpeedPlugin

# Sections of a DeepSpeed configuration that say how to compute, and the run's own fields for them.
OWNED = {
    "optimizer": "optimizer, learning_rate, betas and weight_decay",
    "scheduler": "learning_rate, which is constant",
    "fp16": "mixed_precision",
    "bf16": "mixed_precision",
    "torch_autocast": "mixed_precision",
    "gradient_clipping": "gradient_clipping",
    "gradient_accumulation_steps": "gradient_accumulation",
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size",
}
# Those that change no number of a run.
HARMLESS = {
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "flops_profiler",
    "tensorboard",
    "wandb",
    "csv_monitor",
}

# How many processes were started together, by those who tell torch.distributed nothing of it.
TASKS = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "Open MPI",
    "PMI_SIZE": "MPI (PMI)",
    "MV2_COMM_WORLD_SIZE": "MVAPICH2",
}


def uses_deepspeed(environment: Mapping[str, str] = os.environ) -> bool:
    return environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def check_launch(
    precision: Precision, gradient_accumulation: int, gradient_clipping: float | None, n_gpus: int
) -> None:
    """Raises: InputError where the launcher asks for what the run or this machine does not do."""
    environment = os.environ
    told = [
        ("ACCELERATE_MIXED_PRECISION", "mixed_precision", "no", precision),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation", "1", gradient_accumulation),
        ("ACCELERATE_GRADIENT_CLIPPING", "gradient_clipping", "0.0", gradient_clipping),
    ]
    for variable, field, neutral, value in told:
        asked = environment.get(variable, neutral)
        if asked not in (neutral, "none", "auto") and not _same(asked, value):
            raise InputError(
                f"the launcher was given {field} = {asked}, the run {value}; it is part of a run's identity, so give "
                f"it to the run: --set {field}={asked}"
            )
    # Accelerate names a meeting point for several processes, and then starts a single one, without a rank.
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment and "RANK" not in environment:
        raise InputError(
            "accelerate launch was asked for several processes and started one (on CPUs it does so without a word); "
            "launch with ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1, "
            "without --cpu, or unset MASTER_PORT if one process is what you want"
        )
    n = int(environment.get("WORLD_SIZE", "1"))
    if n > 1 and not {"RANK", "LOCAL_RANK"} <= environment.keys():
        raise InputError(
            f"WORLD_SIZE = {n} says that this is one of {n} processes, without RANK and LOCAL_RANK to say which: each "
            f"would train alone; launch with accelerate launch --multi_gpu --num_processes {n} (on CPUs, "
            "ACCELERATE_USE_CPU=true before it) or torchrun, or unset WORLD_SIZE"
        )
    for variable, who in TASKS.items():
        if "WORLD_SIZE" not in environment and (tasks := environment.get(variable, "1")).isdigit() and int(tasks) > 1:
            raise InputError(
                f"{variable} = {tasks} says that {who} started {tasks} of these, and no rendezvous says how they meet: "
                "each would train the same run alone; start accelerate launch or torchrun on each node, or give the "
                f"run to a sweep (aaebench sweep submit), or unset {variable} if each has a run of its own"
            )
    local = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < n_gpus < local:
        raise InputError(
            f"{local} processes were launched on this node, which has {n_gpus} GPUs; launch {n_gpus} processes"
        )


def _same(asked: str | None, value: object) -> bool:
    """Whether text says this value; `1` is 1.0, as launchers and YAML files write it."""
    try:
        return float(str(asked)) == float(str(value))
    except ValueError:
        return asked == str(value)


def build_deepspeed_plugin(gradient_accumulation: int, gradient_clipping: float | None) -> "DeepSpeedPlugin":
    """ZeRO as the launcher asked for it: --zero_stage 1 or 2, or --deepspeed_config_file.

    Raises: InputError for what does not go together with phases that share parameters, or is the run's to say.
    """
    if platform.system() != "Linux":
        raise InputError(f"DeepSpeed needs Linux, this is {platform.system()}; launch without --use_deepspeed")
    for package in ("deepspeed", "transformers"):  # Accelerate's support of DeepSpeed imports transformers
        if importlib.util.find_spec(package) is None:
            raise InputError(f"DeepSpeed needs the package {package}; run: python -m pip install {package}")
    config = _read_config()
    zero = config.setdefault("zero_optimization", {})
    if not isinstance(zero, dict):
        raise InputError(f'zero_optimization is {json.dumps(zero)}; it is a mapping, as {{"stage": 2}}')
    stage = zero.setdefault("stage", int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")))
    if stage == 3:
        raise InputError(
            "ZeRO stage 3 splits the parameters themselves, and a parameter can belong to one phase's partition only: "
            "the encoder, which two phases update, would train wrongly; use --zero_stage 2 or 1"
        )
    if stage not in (1, 2):
        raise InputError(f"ZeRO stage {stage} splits nothing; use --zero_stage 1 or 2, or launch without DeepSpeed")
    offloads = [_offload(zero, "optimizer"), _offload(zero, "param")]
    if any(device != "none" for device in offloads):
        raise InputError(
            "offloading needs DeepSpeed's own Adam, which has one set of moments where each phase has its own; "
            "launch with --offload_optimizer_device none --offload_param_device none"
        )
    for section in (name for name, content in config.items() if name not in HARMLESS and _is_on(content)):
        why = f"that is the run's {OWNED[section]}" if section in OWNED else "no run's identity tells what it changes"
        raise InputError(f"the DeepSpeed configuration has {section}; remove it, or say auto: {why}")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache_folder() / "torch_extensions"))
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.pop("ACCELERATE_USE_CPU", None)  # with it Accelerate trains without DeepSpeed, and does not say so
    # The launcher's file has been read by now; Accelerate would not have settings come from two sides.
    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
    from accelerate.utils import DeepSpeedPlugin  # noqa: PLC0415 (slow, and there under DeepSpeed only)

    zero["ignore_unused_parameters"] = True  # each phase leaves out what it does not update
    return DeepSpeedPlugin(
        hf_ds_config=config
        | {
            "train_micro_batch_size_per_gpu": 1,  # asked for, and used in nothing but DeepSpeed's own reports
            "train_batch_size": "auto",
            "gradient_accumulation_steps": gradient_accumulation,
            "gradient_clipping": gradient_clipping or 0.0,  # Accelerate's default clips at 1
            "zero_allow_untested_optimizer": True,
        }
    )


def _read_config() -> dict[str, Any]:
    """The file that the launcher was given; empty without one. Raises: InputError if it cannot be read."""
    named = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if named == "none":
        return {}
    try:
        config = json.loads(Path(named).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the DeepSpeed configuration {named}: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{named} holds no JSON object, as DeepSpeed's configurations are")
    return config


def _offload(zero: dict[str, Any], what: str) -> str:
    default = os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what.upper()}_DEVICE", "none")
    section = zero.get(f"offload_{what}") or {}
    return section.get("device", default) if isinstance(section, dict) else str(section)


def _is_on(section: Any) -> bool:
    """Whether a section does anything: "auto", false and {"enabled": "auto"} leave it to the run."""
    if isinstance(section, dict):
        section = section.get("enabled", bool(section))
    return section not in ("auto", False, None, 0)
