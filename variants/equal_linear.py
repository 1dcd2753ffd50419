"""equal-linear-IAAE: EqualLinear layers instead of batch normalisation (paper, section 5.4)."""

from typing import Any

from variants.aae import AAE
from variants.layers import EQUALISED, Layers


class EqualLinearAAE(AAE):
    """The AAE whose encoder and decoder scale weights and biases by 1 / sqrt(D_in) and normalise nothing."""

    def layers(self, options: Any) -> Layers:
        return EQUALISED
