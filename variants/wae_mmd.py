"""WAE-MMD (Tolstikhin et al. 2018): an AAE whose adversary is a kernel instead of a discriminator."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from variants.base import AutoEncoder, Phase, require_weights
from variants.losses import mean_absolute_error, mmd


class WAEMMD(AutoEncoder):
    """E |G(E(x)) - x| + weight * MMD^2(aggregated posterior, prior), the AAE's reconstruction error beside it."""

    @dataclass(frozen=True)
    class Options(AutoEncoder.Options):
        weight: float = 10.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(weight=self.weight)

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.weight = options.weight

    def phases(self) -> dict[str, Phase]:
        return {"wasserstein": Phase(self.wasserstein_loss, updates=(self.encoder, self.decoder))}

    def wasserstein_loss(self, x: Tensor) -> Tensor:
        z = self.encode(x)
        return mean_absolute_error(self.decode(z), x) + self.weight * mmd(z, self.sample_prior(len(x)))
