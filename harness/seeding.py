"""Every random number of a run follows from its seed and its place, so a resumed run repeats an uninterrupted one."""

from typing import Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

Stream = Literal[
    "weights",
    "permutation",
    "noise",
    "dropout",
    "samples",
    "evaluation",
    "reconstructions",
    "codes",
    "classifier",
    "kid",
]


def derive_seed(seed: int, stream: Stream, *indices: int) -> int:
    """A 63-bit seed for one place of one stream, independent of every other place (numpy's SeedSequence)."""
    entropy = [seed, crc32(stream.encode()), *indices]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_generator(seed: int, stream: Stream, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, stream, *indices))


def compute_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of the n training images in one epoch: (n,) int64, the same whatever the number of processes."""
    return torch.randperm(n, generator=build_generator(seed, "permutation", epoch))


class GlobalNoise:
    """Standard normal draws for the images of one rank: row i belongs to image i of the global batch.

    Each rank draws the whole batch's noise and keeps its own rows, so the noise of an image depends on (seed, step) and
    on its place in the global batch, not on how many processes share the work.
    """

    def __init__(self, seed: int, rank: int, num_processes: int, device: torch.device) -> None:
        self.seed, self.rank, self.num_processes = seed, rank, num_processes
        self.generator = torch.Generator(device)

    def start_step(self, step: int) -> None:
        self.generator.manual_seed(derive_seed(self.seed, "noise", step))

    def __call__(self, n: int, latent_dim: int) -> Tensor:
        """(n, Z) on the run's device, for the n images that this rank holds."""
        shape = (n * self.num_processes, latent_dim)
        whole = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return whole[self.rank * n : (self.rank + 1) * n]
