"""latent-mapping-IAAE: a mapping network between the code and the decoder (paper, section 5.1 and Fig. 5)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from variants.aae import AAE
from variants.base import Phase
from variants.networks import Mapping


class LatentMapping(AAE):
    """x = G(M(z)) for codes of the posterior and of the prior alike; with depth 0 this is the AAE."""

    @dataclass(frozen=True)
    class Options(AAE.Options):
        depth: int = 4

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 <= self.depth <= 100:
                raise ValueError(f"depth is {self.depth}; it is a number of layers, 0 to 100")

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.mapping = Mapping(self.latent_dim, options.depth)

    def phases(self) -> dict[str, Phase]:
        updates = (self.encoder, self.mapping, self.decoder)
        return super().phases() | {"reconstruction": Phase(self.reconstruction_loss, updates)}

    def map_codes(self, z: Tensor) -> Tensor:
        return self.mapping(z)
