"""n-iter-IAAE: the discriminator is updated n times per batch (paper, section 5.2)."""

from dataclasses import dataclass, replace
from typing import Any

from variants.aae import AAE
from variants.base import Phase


class NIter(AAE):
    """The AAE with n discriminator updates, each on fresh draws from posterior and prior; n = 1 is the AAE."""

    @dataclass(frozen=True)
    class Options(AAE.Options):
        n: int = 3

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 1 <= self.n <= 1000:
                raise ValueError(f"n is {self.n}; it is a number of discriminator updates, 1 to 1,000")

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.n = options.n

    def phases(self) -> dict[str, Phase]:
        phases = super().phases()
        return phases | {"discriminator": replace(phases["discriminator"], repeats=self.n)}
