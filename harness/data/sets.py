"""The data sets, and the prepared images that a run trains on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from harness.config import Crop
from harness.data.factors import Factors
from harness.data.readers.cifar import read_cifar10
from harness.data.readers.formats import Contents, read_idx_pair, read_image_files
from harness.data.source import Source
from harness.data.sprites import N_SPRITES, render_sprites
from harness.seeding import compute_permutation

Reader = Callable[[Source, int, Crop], Contents]


@dataclass(frozen=True)
class DatasetFormat:
    """How a data set is read, how many images it has, whether a library embeds it, where a package installs it, what
    torchvision downloads.

    `read_test` reads the test split from the same source, where there is one. `n_train` and `n_test`: as published.
    """

    read: Reader
    read_test: Reader | None = None
    n_train: int | None = None
    n_test: int | None = None
    embedded: bool = False
    installed_at: Path | None = None
    torchvision: tuple[str, dict[str, str]] | None = None


def _idx(prefix: str) -> Reader:
    return lambda source, *_: read_idx_pair(source, prefix)


def _cifar10(*patterns: str) -> Reader:
    return lambda source, *_: read_cifar10(source, list(patterns))


def read_digits() -> Contents:
    """scikit-learn's 1,797 grey 8 x 8 digits (Alpaydin & Kaynak 1998): the embedded data."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (slow to import)

    pixels, labels = (torch.from_numpy(np.asarray(array)) for array in load_digits(return_X_y=True))
    return Contents((pixels / 16 * 255).round().to(torch.uint8).reshape(-1, 1, 8, 8), labels.long())


# EMNIST's files hold each letter transposed. They stay as they are, as in torchvision and in the published procedure.
DATASETS: dict[str, DatasetFormat] = {
    "digits": DatasetFormat(lambda *_: read_digits(), n_train=1797, embedded=True),
    "sprites": DatasetFormat(lambda _, image_size, __: render_sprites(image_size), n_train=N_SPRITES, embedded=True),
    "mnist": DatasetFormat(_idx("train"), _idx("t10k"), 60_000, 10_000, torchvision=("MNIST", {})),
    "emnist": DatasetFormat(
        _idx("emnist-balanced-train"),
        _idx("emnist-balanced-test"),
        112_800,
        18_800,
        torchvision=("EMNIST", {"split": "balanced"}),
    ),
    "fashion_mnist": DatasetFormat(
        _idx("train"),
        _idx("t10k"),
        60_000,
        10_000,
        installed_at=Path("/usr/share/datasets/fashion-mnist"),
        torchvision=("FashionMNIST", {}),
    ),
    "cifar10": DatasetFormat(
        _cifar10(*(f"data_batch_{number}*" for number in range(1, 6))),
        _cifar10("test_batch*"),
        50_000,
        10_000,
        torchvision=("CIFAR10", {}),
    ),
    "ffhq": DatasetFormat(read_image_files, n_train=70_000),
    "celeba": DatasetFormat(read_image_files, n_train=202_599, torchvision=("CelebA", {})),
}


@dataclass(frozen=True)
class TrainingSet:
    """Prepared images (N, c, S, S) uint8, c being 1 for grey data; labels (N,) and factors where the data has them.

    `channels` is what a batch has: grey images are repeated to it. `sha256` is the checksum of the prepared data, of
    which `images` may be a subset: `n_prepared` images, where the data set as published has `n_expected` (None for a
    user's own).
    """

    name: str
    images: Tensor
    labels: Tensor | None
    channels: int
    sha256: str
    crop: Crop = "squeeze"
    n_prepared: int = 0
    n_expected: int | None = None
    factors: Factors | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.images.shape[2], self.images.shape[3]

    def to(self, device: torch.device) -> "TrainingSet":
        """The images resident on the device where they fit in half of its free memory; else memory-mapped."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
        if self.images.nbytes > free / 2:
            return self
        resident = torch.empty_like(self.images, device=device).copy_(self.images)
        return replace(self, images=resident)

    def describe(self) -> dict[str, Any]:
        """What is said of the data where a run is described; `whole` is false for a part of a published data set."""
        return {
            "sha256": self.sha256,
            "crop": self.crop,
            "n_used": len(self),
            "n_prepared": self.n_prepared,
            "n_expected": self.n_expected,
            "whole": self.n_expected in (None, self.n_prepared),
        }

    def batch(self, indices: Tensor, device: torch.device) -> Tensor:
        """Images (B, C, S, S) in [-1, 1], float32, on the device: of grey ones a single channel is brought there."""
        if self.images.is_cuda or device.type != "cuda":
            pixels = self.images[indices].to(device)
        else:  # by way of page-locked memory, so that the host gathers the next batch while the device trains
            shape = (len(indices), *self.images.shape[1:])
            staged = torch.empty(shape, dtype=self.images.dtype, pin_memory=True)
            pixels = torch.index_select(self.images, 0, indices, out=staged).to(device, non_blocking=True)
        x = pixels.to(torch.float32).div_(127.5).sub_(1)
        return x if x.shape[1] == self.channels else x.expand(-1, self.channels, -1, -1).contiguous()

    def steps_per_epoch(self, batch_size: int) -> int:
        """Whole batches only; which images are left over differs from epoch to epoch."""
        return len(self) // batch_size

    def epoch(
        self, seed: int, epoch: int, batch_size: int, rank: int, num_processes: int, start: int = 0
    ) -> Iterator[Tensor]:
        """Indices (B / num_processes,) of this rank's share of each global batch, from step `start` on; they lie where
        the images do.

        The global batches follow from (seed, epoch) alone: they are the same whatever the number of processes.
        """
        order = compute_permutation(len(self), seed, epoch).to(self.images.device)
        share = batch_size // num_processes
        for step in range(start, self.steps_per_epoch(batch_size)):
            first = step * batch_size + rank * share
            yield order[first : first + share]
