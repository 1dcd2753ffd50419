"""beta-VAE (Higgins et al. 2017; paper, section 4.2)."""

from dataclasses import dataclass
from typing import Any

from variants.base import require_weights
from variants.vae import VAE


class BetaVAE(VAE):
    """The VAE with another weight of the KL term; beta = 1 is the VAE."""

    @dataclass(frozen=True)
    class Options(VAE.Options):
        beta: float = 4.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(beta=self.beta)

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.beta = options.beta
