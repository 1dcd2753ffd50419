"""VAE-GAN (Larsen et al. 2016; paper, section 4.1 and Fig. 3)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from variants.base import AutoEncoder, Phase, require_weights
from variants.losses import fake_loss, gaussian_kl, real_loss
from variants.networks import ImageDiscriminator, SigmaHead


class VAEGAN(AutoEncoder):
    """The pixel error gives way to the error between hidden features Dis_l of an image discriminator.

    Three objectives, as in Larsen et al.'s algorithm 1: the encoder minimises KL + L_l; the decoder gamma * L_l and the
    loss (non-saturating here) of its images of posterior and prior codes passing for real; the discriminator tells them
    from real images.
    """

    @dataclass(frozen=True)
    class Options(AutoEncoder.Options):
        sigma: SigmaHead = "exp"
        layer: int = 1
        gamma: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(gamma=self.gamma)
            if not 1 <= self.layer <= ImageDiscriminator.n_feature_layers:
                raise ValueError(f"layer is {self.layer}; the discriminator's hidden layers are 1 and 2")

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.discriminator = ImageDiscriminator(self.image_shape, self.architecture)
        self.layer, self.gamma = options.layer, options.gamma

    def phases(self) -> dict[str, Phase]:
        return {
            "encoder": Phase(self.encoder_loss, updates=(self.encoder,)),
            "decoder": Phase(self.decoder_loss, updates=(self.decoder,)),
            "discriminator": Phase(self.discriminator_loss, updates=(self.discriminator,)),
        }

    def encoder_loss(self, x: Tensor) -> Tensor:
        return gaussian_kl(*self.posterior(x)) + self.feature_error(self.decode(self.encode(x)), x)

    def decoder_loss(self, x: Tensor) -> Tensor:
        x_hat, x_prior = self.generate(x)
        fooled = real_loss(self.discriminator(x_hat)) + real_loss(self.discriminator(x_prior))
        return self.gamma * self.feature_error(x_hat, x) + fooled

    def discriminator_loss(self, x: Tensor) -> Tensor:
        """-E[log Dis(x)] - E[log(1 - Dis(x_hat))] - E[log(1 - Dis(x_prior))]."""
        x_hat, x_prior = (images.detach() for images in self.generate(x))
        fakes = fake_loss(self.discriminator(x_hat)) + fake_loss(self.discriminator(x_prior))
        return real_loss(self.discriminator(x)) + fakes

    def generate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A reconstruction and an image of a prior code for each image; the encoder is not trained through them."""
        return self.decode(self.encode(x).detach()), self.decode(self.sample_prior(len(x)))

    def feature_error(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """-log N(Dis_l(x); Dis_l(x_hat), I) summed over features, averaged over B, in nats up to a constant."""
        real, fake = (self.discriminator.features(images, self.layer).float() for images in (x, x_hat))
        return (fake - real).square().flatten(1).sum(dim=1).mean() / 2
