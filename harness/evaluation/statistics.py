"""What is kept of numbered images as they pass: sums, and the features of the first ones. Memory does not grow with n.

From the sums follow FID and Inception Score, from the kept features the scores that compare images with images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, pairwise
from operator import add

import numpy as np
import torch
from torch import Tensor

from harness.evaluation.extractors import Extractor
from harness.evaluation.finite import asking_later
from harness.evaluation.images import NumberedImages
from harness.evaluation.normalisation import batch_sizes
from harness.launch.processes import Processes
from harness.sending import send
from harness.timing import timed

SPLITS = 10  # of the Inception Score (Salimans et al. 2016)
KEPT = 10_000  # images whose features are kept: those of precision, recall, density, coverage and KID
GROUPS = 6  # sizes of which FID-infinity takes the FID


@dataclass(frozen=True)
class Moments:
    """n, mean (F,) and unbiased covariance (F, F) of features, float64."""

    n: int
    mean: Tensor
    covariance: Tensor

    def to(self, device: torch.device) -> "Moments":
        return Moments(self.n, self.mean.to(device), self.covariance.to(device))


class FeatureSums:
    """float64 sums over images with features (F,): exact counts."""

    def __init__(self, n: Tensor, features: Tensor, outer: Tensor) -> None:
        self.n, self.features, self.outer = n, features, outer

    @classmethod
    def zeros(cls, n_features: int, device: torch.device) -> "FeatureSums":
        shapes = ((), (n_features,), (n_features, n_features))
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, features: Tensor) -> None:
        """Add a batch of features (B, F)."""
        features = features.double()
        self.n += len(features)
        self.features += features.sum(0)
        self.outer += features.T @ features

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        return FeatureSums(self.n + other.n, self.features + other.features, self.outer + other.outer)

    def over(self, processes: Processes) -> "FeatureSums":
        """The sums of all processes, on the device of each."""
        return FeatureSums(*(processes.sum(tensor) for tensor in (self.n, self.features, self.outer)))

    def moments(self) -> Moments:
        """Raises: ValueError for fewer than two images."""
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 images or more, not {int(self.n)}")
        mean = self.features / self.n
        return Moments(int(self.n), mean, (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1))


class ClassSums:
    """float64 sums of class probabilities p (K,), of sum_y p log p in nats, and counts, in each of ten splits."""

    def __init__(self, n_classes: int, device: torch.device) -> None:
        self.table = torch.zeros(SPLITS, n_classes + 2, dtype=torch.float64, device=device)

    def add(self, splits: Tensor, probabilities: Tensor) -> None:
        """Add a batch: the split of each image (B,), probabilities (B, K), on one device."""
        p = probabilities.double()
        negative_entropy = torch.special.xlogy(p, p).sum(1, keepdim=True)
        self.table.index_add_(0, splits, torch.cat([p, negative_entropy, p.new_ones(len(p), 1)], 1))


@dataclass(frozen=True)
class ImageStatistics:
    """Of one set of n images, over all processes, on the device of each.

    `groups`: the sums of the images whose number is g modulo the number of groups. `classes`: a row per split,
    (S, K + 2), of probabilities, negative entropies and counts, on the CPU. `features`: (min(n, KEPT), F) float32, of
    the first.
    """

    groups: Sequence[FeatureSums]
    classes: Tensor
    features: Tensor

    @property
    def n(self) -> int:
        return int(sum(sums.n for sums in self.groups))

    def moments(self) -> Moments:
        return reduce(add, self.groups).moments()

    def growing(self) -> list[Moments]:
        """The moments of the first group, of the first two, ...: ever larger parts of the images, at last all."""
        return [reduce(add, self.groups[: k + 1]).moments() for k in range(len(self.groups))]

    def half(self, which: int) -> "ImageStatistics":
        """The images of even (0) or odd (1) number."""
        return ImageStatistics(self.groups[which::2], torch.empty(0, 2), self.features[which::2])


def count_groups(n: int, n_features: int) -> int:
    """Six where each has twice as many images as features, so that its FID lies on the line in 1/N; else two halves."""
    return GROUPS if n >= 2 * GROUPS * n_features else 2


def gather_statistics(
    images: NumberedImages,
    extractor: Extractor,
    processes: Processes,
    batch_size: int,
    after_batch: Callable[[int], None] = lambda done: None,
) -> ImageStatistics:
    """Featurise numbered images, each process its share of the batches, each image once.

    `after_batch` is told how many images are done. Every process calls it equally often: it may communicate, and raise
    to end the evaluation on all of them at once. On a single process nothing waits for the device until the last batch
    is on its way, and `done` is what has been handed to it; several agree after each of their batches.
    Raises: on every process, what making or featurising images raised on one; of images or features that are not finite
        after the last batch.
    """
    n, device = len(images), processes.device
    groups = [FeatureSums.zeros(extractor.n_features, device) for _ in range(count_groups(n, extractor.n_features))]
    classes = ClassSums(extractor.n_classes, device)
    kept_numbers = [torch.empty(0, dtype=torch.int64)]
    kept = [torch.empty(0, extractor.n_features, device=device)]
    batches = list(pairwise(accumulate(batch_sizes(n, batch_size), initial=0)))
    with asking_later() as require_that_all_were_finite:
        for batch in range(0, len(batches), processes.num_processes):
            mine = batches[batch + processes.rank : batch + processes.rank + 1]  # none in the last round, perhaps
            with processes.raising_together():
                for numbers, pixels in (part for first, last in mine for part in images.parts(first, last)):
                    features, probabilities = extractor(send(pixels, device))
                    with timed("statistics"):
                        for sums, members in zip(groups, _divide(numbers, len(groups), features), strict=True):
                            sums.add(members)
                        classes.add(send(numbers * SPLITS // n, device), probabilities)
                        first_ones = np.flatnonzero(numbers.numpy() < KEPT)
                        if len(first_ones):
                            kept_numbers.append(numbers[first_ones])
                            kept.append(features[send(torch.from_numpy(first_ones), device)])
            after_batch(batches[min(batch + processes.num_processes, len(batches)) - 1][1])
    with processes.raising_together():
        require_that_all_were_finite()
    order = processes.concatenate(torch.cat(kept_numbers)).argsort()
    return ImageStatistics(
        [sums.over(processes) for sums in groups],
        processes.sum(classes.table).cpu(),
        processes.concatenate(torch.cat(kept))[order].to(device),
    )


def _divide(numbers: Tensor, n_groups: int, features: Tensor) -> tuple[Tensor, ...]:
    """The features (B, F) of a batch by their images' numbers (B,) modulo the number of groups.

    Who is in which group is known to the CPU: a mask on the device would have to be waited for.
    """
    group = numbers.numpy() % n_groups
    order = torch.from_numpy(group.argsort(kind="stable"))
    return features[send(order, features.device)].split(np.bincount(group, minlength=n_groups).tolist())
