"""Any set of the paper's five ideas at once (paper, sections 7 and 9: its next steps)."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from variants.aae import AAE
from variants.base import Phase, require_weights
from variants.feature import code_error
from variants.latent_mapping import LatentMapping
from variants.layers import EQUALISED, PLAIN, Layers
from variants.losses import KLDirection, gaussian_kl, mean_absolute_error
from variants.n_iter import NIter
from variants.networks import Mapping, SigmaHead


class Combined(AAE):
    """Each idea acts as in its own variant, or not at all where its option says so; with all off this is the AAE.

    The sigma head is `exp` where the KL term is on and `linear` where it is off, as in the single variants, unless set.
    """

    @dataclass(frozen=True)
    class Options(AAE.Options):  # pyright: ignore[reportIncompatibleVariableOverride]
        sigma: SigmaHead | Literal["auto"] = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
        depth: int = 0
        n: int = 1
        kld_weight: float = 0.0
        direction: KLDirection = "posterior_prior"
        feature_weight: float = 0.0
        equal_linear: bool = False

        def __post_init__(self) -> None:
            super().__post_init__()
            LatentMapping.Options(depth=self.depth)
            NIter.Options(n=self.n)
            require_weights(kld_weight=self.kld_weight, feature_weight=self.feature_weight)
            if self.kl_weight > 0 and self.kld_weight > 0:
                raise ValueError("kl_weight and kld_weight are both a KL term; set one of them")
            if self.sigma == "auto":
                object.__setattr__(self, "sigma", "exp" if self.kld_weight > 0 else "linear")

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.mapping = Mapping(self.latent_dim, options.depth)
        self.n = options.n
        self.kld_weight, self.kld_direction = options.kld_weight, options.direction
        self.feature_weight = options.feature_weight

    def layers(self, options: Any) -> Layers:
        return EQUALISED if options.equal_linear else PLAIN

    def phases(self) -> dict[str, Phase]:
        phases = super().phases()
        updates = (self.encoder, self.mapping, self.decoder)
        return phases | {
            "reconstruction": replace(phases["reconstruction"], updates=updates),
            "discriminator": replace(phases["discriminator"], repeats=self.n),
        }

    def map_codes(self, z: Tensor) -> Tensor:
        return self.mapping(z)

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        x_hat = self.decode(self.encode(x))
        loss = mean_absolute_error(x_hat, x)
        return loss + self.feature_weight * code_error(self, x_hat, x) if self.feature_weight > 0 else loss

    def adversary_loss(self, x: Tensor) -> Tensor:
        loss = super().adversary_loss(x)
        if self.kld_weight > 0:
            loss = loss + self.kld_weight * gaussian_kl(*self.posterior(x), self.kld_direction)
        return loss
