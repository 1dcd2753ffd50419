"""equal-linear-IAAE: EqualLinear layers instead of batch normalisation (paper, section 5.4)."""

from torch import nn

from variants.aae import AAE
from variants.base import AutoEncoder
from variants.networks import EqualLinear, Layer, Norm


class EqualLinearAAE(AAE):
    """The AAE whose encoder and decoder scale weights and biases by 1 / sqrt(D_in) and normalise nothing."""

    def layers(self, options: AutoEncoder.Options) -> tuple[Layer, Norm]:
        return EqualLinear, nn.Identity
