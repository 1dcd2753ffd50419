"""The generative adversarial network (Goodfellow et al. 2014; paper, sections 1 and 2): AAE's other parent."""

from typing import Any

from torch import Tensor

from variants.base import Phase, Variant
from variants.losses import fake_loss, real_loss
from variants.networks import Decoder, ImageDiscriminator


class GAN(Variant):
    """A generator as wide as the AAE's decoder against an image discriminator as wide as its encoder."""

    def build_networks(self, options: Any) -> None:
        self.generator = Decoder(self.image_shape, self.latent_dim, architecture=self.architecture)
        self.discriminator = ImageDiscriminator(self.image_shape, self.architecture)

    def phases(self) -> dict[str, Phase]:
        return {
            "discriminator": Phase(self.discriminator_loss, updates=(self.discriminator,)),
            "generator": Phase(self.generator_loss, updates=(self.generator,)),
        }

    def discriminator_loss(self, x: Tensor) -> Tensor:
        """-E[log D(x)] - E[log(1 - D(G(z)))]."""
        x_prior = self.decode(self.sample_prior(len(x))).detach()
        return real_loss(self.discriminator(x)) + fake_loss(self.discriminator(x_prior))

    def generator_loss(self, x: Tensor) -> Tensor:
        """-E[log D(G(z))] (non-saturating)."""
        return real_loss(self.discriminator(self.decode(self.sample_prior(len(x)))))

    def decode(self, z: Tensor) -> Tensor:
        return self.generator(z)
