"""Every random number of a run follows from its seed and its place, so a resumed run repeats an uninterrupted one."""

from collections.abc import Callable
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

Stream = Literal[
    "weights",
    "permutation",
    "subset",
    "noise",
    "step",
    "samples",
    "evaluation",
    "reconstructions",
    "codes",
    "classifier",
    "probe",
    "kid",
    "mechanisms",
    "moves",
    "paths",
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


def compute_subset(n: int, size: int) -> Tensor:
    """Which of n images are used where fewer are asked for: sorted (min(n, size),) int64, of the same n the same ones.

    A random choice, as the first images may be all of one class; a smaller subset lies within a larger one.
    """
    return torch.randperm(n, generator=build_generator(0, "subset"))[:size].sort().values


class GlobalNoise:
    """Draws for the images of one rank: row i belongs to image i of the global batch.

    Each rank draws for the whole batch and keeps its own rows, so what an image draws depends on (seed, step) and on
    its place in the global batch, not on how many processes share the work, nor on the parts in which they do it.
    """

    def __init__(self, seed: int, rank: int, num_processes: int, device: torch.device, parts: int = 1) -> None:
        self.seed, self.rank, self.num_processes, self.parts = seed, rank, num_processes, parts
        self.generator = torch.Generator(device)
        self.start_update()

    def start_step(self, step: int) -> None:
        self.generator.manual_seed(derive_seed(self.seed, "noise", step))

    def start_update(self) -> None:
        """What is drawn from here on is another update's."""
        self._drawn: list[Tensor] = []
        self.start_part(0)

    def start_part(self, part: int) -> None:
        """The same draws as the update's first part had, for the images of this part."""
        self._part, self._next = part, 0

    def __call__(self, n: int, latent_dim: int) -> Tensor:
        """Standard normal draws (n, Z) on the run's device, for the n images that this rank holds."""
        return self._rows(n, lambda whole: torch.randn(whole, latent_dim, **self._placed))

    def mask(self, n: int, width: int, keep: float) -> Tensor:
        """Ones with probability `keep`, else zeros: (n, width), as `__call__`."""
        # A third of what bernoulli_ takes on a CPU, where dropout is a tenth of a step.
        return self._rows(n, lambda whole: torch.rand(whole, width, **self._placed).lt_(keep))

    @property
    def _placed(self) -> dict[str, Any]:
        return {"generator": self.generator, "device": self.generator.device}

    def _rows(self, n: int, draw: Callable[[int], Tensor]) -> Tensor:
        if self._next == len(self._drawn):
            self._drawn.append(draw(n * self.num_processes * self.parts))
        whole, self._next = self._drawn[self._next], self._next + 1
        first = (self.rank * self.parts + self._part) * n
        return whole[first : first + n]
