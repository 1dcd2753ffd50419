"""A few steps of every variant, run as several processes: all must end with the same parameters.

`every_variant.py [FILE]`: the losses and the parameters go to FILE, for a comparison of ways to train.
"""

import sys

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import gather

from harness.config import build_config
from harness.train import prepare
from variants import VARIANTS

STEPS = 4

if __name__ == "__main__":
    results = {}
    for name in VARIANTS:
        AcceleratorState._reset_state()  # DeepSpeed takes one engine for each
        config = build_config(
            {"dataset": "digits", "extractor": "domain", "variant": name, "batch_size": 32, "max_images": 32 * STEPS}
        )
        engine, data, _ = prepare(config)
        history = []
        for step, indices in enumerate(data.epoch(0, 0, config.batch_size, engine.rank, engine.num_processes)):
            losses = engine.step(data.batch(indices, engine.device), step)
            assert all(loss.isfinite() for loss in losses.values()), name
            history.append(engine.sum(torch.stack(list(losses.values()))) / engine.num_processes)
        assert len(history) == STEPS, "every rank has the same number of steps"
        parameters = {key: p.detach().clone() for key, p in engine.variant.named_parameters()}
        ranks = gather(torch.cat([p.flatten() for p in parameters.values()])[None])
        assert isinstance(ranks, torch.Tensor)
        assert len(ranks) == engine.num_processes
        assert all(torch.equal(ranks[0], other) for other in ranks), f"the ranks of {name} have drifted apart"
        results[name] = {"losses": torch.stack(history), "parameters": parameters}
        if engine.is_main_process:
            print(name, engine.num_processes, engine.zero_stage)
    if PartialState().is_main_process and len(sys.argv) > 1:
        torch.save(results, sys.argv[1])
