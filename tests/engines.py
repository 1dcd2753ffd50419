"""Engines on which tests train a variant step by step."""

from typing import Any

from harness.config import build_config
from harness.launch.processes import Processes, build_accelerator
from harness.training.engine import Engine
from variants import Variant


def build_engine(variant: Variant, **fields: Any) -> Engine:
    """`fields` are those of a run; they name no variant, as it is there already."""
    config = build_config({"learning_rate": 1e-3, **fields})
    accelerator = build_accelerator(config.mixed_precision, config.gradient_accumulation, config.gradient_clipping)
    return Engine(Processes(accelerator), variant, config, variant.context.features)
