"""Two steps of every variant, of two in conv too, run as several processes: all must end with the same parameters."""

import torch
from accelerate.utils import gather

from harness.config import build_config
from harness.train import prepare
from variants import VARIANTS

if __name__ == "__main__":
    for name, architecture in [*((name, "mlp") for name in VARIANTS), ("aae", "conv"), ("vae_gan", "conv")]:
        fields = {"variant": name, "architecture": architecture, "batch_size": 32, "max_images": 128}
        config = build_config({"dataset": "digits", "extractor": "domain", **fields})
        engine, data, _ = prepare(config)
        batches = data.epoch(0, 0, config.batch_size, engine.rank, engine.num_processes)
        for step, indices in zip(range(2), batches, strict=False):
            losses = engine.step(data.batch(indices, engine.device), step)
            assert all(loss.isfinite() for loss in losses.values()), name
        flat = torch.cat([p.detach().flatten() for p in engine.variant.parameters()])
        ranks = gather(flat[None])
        assert isinstance(ranks, torch.Tensor)
        assert len(ranks) == engine.num_processes
        assert all(torch.equal(ranks[0], other) for other in ranks), f"the ranks of {name} have drifted apart"
        if engine.is_main_process:
            print(name, architecture, engine.num_processes)
