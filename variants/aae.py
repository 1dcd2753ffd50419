"""The adversarial autoencoder (Makhzani et al. 2015; paper, section 3.1 and Fig. 1)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from variants.base import AutoEncoder, Phase, require_weights
from variants.losses import KLDirection, fake_loss, mean_absolute_error, real_loss
from variants.networks import Discriminator
from variants.remedies import Remedies


class AAE(AutoEncoder):
    """Reconstruct; tell the posterior's codes from the prior's; make the encoder fool that discriminator."""

    @dataclass(frozen=True)
    class Options(AutoEncoder.Options):
        sigma_penalty: float = 0.0
        log_variance_penalty: float = 0.0
        kl_weight: float = 0.0
        kl_direction: KLDirection = "posterior_prior"

        def __post_init__(self) -> None:
            super().__post_init__()
            require_weights(
                sigma_penalty=self.sigma_penalty,
                log_variance_penalty=self.log_variance_penalty,
                kl_weight=self.kl_weight,
            )

    def build_networks(self, options: Any) -> None:
        super().build_networks(options)
        self.discriminator = Discriminator(self.latent_dim)
        self.remedies = Remedies(
            options.sigma_penalty, options.log_variance_penalty, options.kl_weight, options.kl_direction
        )

    def phases(self) -> dict[str, Phase]:
        return {
            "reconstruction": Phase(self.reconstruction_loss, updates=(self.encoder, self.decoder)),
            "discriminator": Phase(self.discriminator_loss, updates=(self.discriminator,)),
            "adversary": Phase(self.adversary_loss, updates=(self.encoder,)),
        }

    def reconstruction_loss(self, x: Tensor) -> Tensor:
        """E |G(E(x)) - x|, the mean over images, channels and pixels."""
        return mean_absolute_error(self.decode(self.encode(x)), x)

    def discriminator_loss(self, x: Tensor) -> Tensor:
        """-E[log D(z_prior)] - E[log(1 - D(z))]: the prior is real, the posterior is fake (paper, section 5.2)."""
        z, z_prior = self.encode(x).detach(), self.sample_prior(len(x))
        return real_loss(self.discriminator(z_prior)) + fake_loss(self.discriminator(z))

    def adversary_loss(self, x: Tensor) -> Tensor:
        """-E[log D(z)]: the encoder makes its codes pass for the prior's (non-saturating); plus the remedies chosen."""
        loss = real_loss(self.discriminator(self.encode(x)))
        return loss + self.remedies(*self.posterior(x)) if self.remedies.active else loss
