"""Which statistics BatchNorm uses while a variant is evaluated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from harness.protocol import Normalisation

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def evaluation_mode(variant: nn.Module, normalisation: Normalisation) -> Iterator[None]:
    """The variant in eval mode without gradients; with `batch` its BatchNorm layers use each batch's own statistics.

    The running statistics are neither used nor changed in `batch` mode.
    """
    layers = [m for m in variant.modules() if isinstance(m, BATCH_NORMS)] if normalisation == "batch" else []
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    variant.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        variant.train()
        for layer, (mean, var) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, var


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Sizes of the batches in which n images are evaluated; a last single image, without a variance, joins others."""
    sizes = [min(batch_size, n - first) for first in range(0, n, batch_size)]
    return [*sizes[:-2], sizes[-2] + 1] if len(sizes) > 1 and sizes[-1] == 1 else sizes
