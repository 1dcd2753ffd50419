"""Any set of the paper's five ideas at once (paper, sections 7 and 9: its next steps)."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from variants.aae import AAE
from variants.base import require_not_negative
from variants.feature import Feature
from variants.kld_loss import KLDLoss
from variants.latent_mapping import LatentMapping
from variants.layers import EQUALISED, Layers
from variants.losses import KLDirection
from variants.n_iter import NIter
from variants.networks import Mapping, SigmaHead


class Combined(LatentMapping, NIter, KLDLoss, Feature):
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
            require_not_negative(kld_weight=self.kld_weight, feature_weight=self.feature_weight)
            if self.kl_weight > 0 and self.kld_weight > 0:
                raise ValueError("kl_weight and kld_weight are both a KL term; set one of them")
            if self.sigma == "auto":
                object.__setattr__(self, "sigma", "exp" if self.kld_weight > 0 else "linear")

    def build_networks(self, options: Any) -> None:
        AAE.build_networks(self, options)
        self.mapping = Mapping(self.latent_dim, options.depth)
        self.n = options.n
        self.kld_weight, self.kld_direction = options.kld_weight, options.direction
        self.feature_weight = options.feature_weight

    def layers(self, options: Any) -> Layers:
        return EQUALISED if options.equal_linear else super().layers(options)

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        idea = Feature if self.feature_weight > 0 else AAE
        return idea.reconstruction_loss(self, x)

    def adversary_loss(self, x: Tensor) -> Tensor:
        idea = KLDLoss if self.kld_weight > 0 else AAE
        return idea.adversary_loss(self, x)
