"""feature-IAAE: a feature-wise error joins the pixel-wise one (paper, section 5.3 and Fig. 6)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

from variants.aae import AAE
from variants.base import require_weights
from variants.losses import mean_absolute_error


class Feature(AAE):
    """E |x_hat - x| + weight * mean (mu(x_hat) - mu(x))^2 with x_hat = G(E(x)): the code is the feature."""

    @dataclass(frozen=True)
    class Options(AAE.Options):
        weight: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(weight=self.weight)

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.feature_weight = options.weight

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        x_hat = self.decode(self.encode(x))
        return mean_absolute_error(x_hat, x) + self.feature_weight * code_error(self, x_hat, x)


def code_error(aae: AAE, x_hat: Tensor, x: Tensor) -> Tensor:
    """mean (mu(x_hat) - mu(x))^2 over images and dimensions of the code."""
    mu, _ = aae.posterior(x)
    mu_hat, _ = aae.encoder(x_hat)
    return mse_loss(mu_hat.float(), mu.float())
