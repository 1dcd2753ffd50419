"""Sums over images from which FID and Inception Score follow: exact counts, memory independent of their number."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class FeatureSums:
    """float64 sums over N images with features (F,) and class probabilities (K,)."""

    n: Tensor
    features: Tensor
    outer: Tensor
    probabilities: Tensor
    negative_entropy: Tensor

    @classmethod
    def zeros(cls, n_features: int, n_classes: int, device: torch.device) -> "FeatureSums":
        shapes = ((), (n_features,), (n_features, n_features), (n_classes,), ())
        return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, features: Tensor, probabilities: Tensor) -> None:
        """Add a batch: features (B, F), probabilities (B, K)."""
        features, probabilities = features.double(), probabilities.double()
        self.n += len(features)
        self.features += features.sum(0)
        self.outer += features.T @ features
        self.probabilities += probabilities.sum(0)
        self.negative_entropy += torch.special.xlogy(probabilities, probabilities).sum()

    def tensors(self) -> tuple[Tensor, ...]:
        return self.n, self.features, self.outer, self.probabilities, self.negative_entropy

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (F,) and unbiased covariance (F, F). Raises: ValueError for fewer than two images."""
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 images or more, not {int(self.n)}")
        mean = self.features / self.n
        return mean, (self.outer - self.n * torch.outer(mean, mean)) / (self.n - 1)
