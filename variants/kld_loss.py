"""KLD-loss-IAAE: a KL term between posterior and prior joins the regularisation (paper, section 5.2)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from variants.aae import AAE
from variants.base import require_weights
from variants.losses import KLDirection, gaussian_kl
from variants.networks import SigmaHead


class KLDLoss(AAE):
    """L_adversary + weight * KL.

    The term depends on the encoder only, so it stands in the phase that updates the encoder. The sigma head is `exp`
    unless set: under the published signed head the KL's gradient -1/sigma spikes and poisons Adam's second moments.
    """

    @dataclass(frozen=True)
    class Options(AAE.Options):
        sigma: SigmaHead = "exp"
        weight: float = 0.1
        direction: KLDirection = "posterior_prior"

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(weight=self.weight)
            if self.kl_weight > 0:
                raise ValueError("kl_weight would add a second KL term; kld_loss has its own: set weight and direction")

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.kld_weight = options.weight
        self.kld_direction: KLDirection = options.direction

    def adversary_loss(self, x: Tensor) -> Tensor:
        mu, sigma = self.posterior(x)
        return super().adversary_loss(x) + self.kld_weight * gaussian_kl(mu, sigma, self.kld_direction)
