"""A few steps of every variant, and of options, run as several processes: all must end with the same parameters.

`every_variant.py [FILE]`: the losses and the parameters go to FILE, for a comparison of ways to train.
"""

import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import gather
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.config import build_config
from harness.train import prepare
from variants import VARIANTS

STEPS = 4
TRAINED: dict[str, dict[str, Any]] = {
    **{name: {"variant": name} for name in VARIANTS},
    **{f"{name} conv": {"variant": name, "architecture": "conv"} for name in ("aae", "vae_gan")},
    "equal_linear clipped": {"variant": "equal_linear", "gradient_clipping": 0.1},
    "equal_linear bf16": {"variant": "equal_linear", "mixed_precision": "bf16"},
    "equal_linear accumulated": {"variant": "equal_linear", "gradient_accumulation": 2},
}


def find_normalised_shifts(variant: nn.Module) -> Iterator[str]:
    """Biases right before BatchNorm: their gradients are rounding errors, of which Adam makes steps of full length."""
    for name, module in variant.named_modules():
        if isinstance(module, nn.Sequential):
            layers = module.named_children()
            yield from (f"{name}.{index}.bias" for (index, _), (_, n) in pairwise(layers) if isinstance(n, _BatchNorm))


if __name__ == "__main__":
    results = {}
    for name, changed in TRAINED.items():
        fields = {"dataset": "digits", "extractor": "domain", "batch_size": 32, "max_images": 32 * STEPS, "seed": 1}
        config = build_config(fields | changed)
        engine, data, _ = prepare(config)
        history = []
        for step, indices in enumerate(
            data.epoch(0, 0, config.batch_size, engine.processes.rank, engine.processes.num_processes)
        ):
            losses = engine.step(data.batch(indices, engine.processes.device), step)
            assert all(loss.isfinite() for loss in losses.values()), name
            history.append(engine.processes.sum(torch.stack(list(losses.values()))) / engine.processes.num_processes)
        assert len(history) == STEPS, "every rank has the same number of steps"
        shifts = set(find_normalised_shifts(engine.variant))
        parameters = {k: p.detach().clone() for k, p in engine.variant.named_parameters() if k not in shifts}
        ranks = gather(torch.cat([p.flatten() for p in parameters.values()])[None])
        assert isinstance(ranks, torch.Tensor)
        assert len(ranks) == engine.processes.num_processes
        assert all(torch.equal(ranks[0], other) for other in ranks), f"the ranks of {name} have drifted apart"
        results[name] = {"losses": torch.stack(history), "parameters": parameters}
        if engine.processes.is_main_process:
            print(f"{name}: {engine.processes.num_processes} {engine.zero_stage}")
    if PartialState().is_main_process and len(sys.argv) > 1:
        torch.save(results, sys.argv[1])
