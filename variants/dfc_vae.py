"""Deep feature consistent VAE (Hou et al. 2017; paper, section 4.1 and Fig. 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.base import require_weights
from variants.losses import pixel_error
from variants.vae import VAE


class DFCVAE(VAE):
    """The VAE whose reconstruction error adds that between hidden activations of a fixed network for x and x_hat.

    -log p(x|z) + weight * sum over layers of |phi_l(x_hat) - phi_l(x)|^2 / 2, each summed over its activations.
    The network is the context's.
    """

    needs_feature_network = True

    @dataclass(frozen=True)
    class Options(VAE.Options):
        weight: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(weight=self.weight)

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.feature_weight = options.weight

    def reconstruction_error(self, x: Tensor) -> Tensor:
        x_hat = self.decode(self.encode(x))
        with torch.no_grad():
            real = self.context.features(x)
        return pixel_error(x_hat, x) + self.feature_weight * _squared_error(self.context.features(x_hat), real)


def _squared_error(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    errors = [
        (f.float() - r.float()).square().flatten(1).sum(dim=1).mean() / 2 for f, r in zip(fake, real, strict=True)
    ]
    return torch.stack(errors).sum()
