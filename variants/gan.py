"""The generative adversarial network (Goodfellow et al. 2014; paper, sections 1 and 2): AAE's other parent."""

from torch import Tensor

from variants.base import Phase, Variant
from variants.losses import fake_loss, real_loss
from variants.networks import Decoder, ImageDiscriminator


class GAN(Variant):
    """A generator as wide as the AAE's decoder against an image discriminator as wide as its encoder."""

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, options: Variant.Options) -> None:
        super().__init__(image_shape, latent_dim, options)
        self.generator = Decoder(image_shape, latent_dim)
        self.discriminator = ImageDiscriminator(image_shape)

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
