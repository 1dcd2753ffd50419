"""The variational autoencoder (Kingma & Welling 2014; paper, sections 3 and 4.2)."""

from dataclasses import dataclass

from torch import Tensor

from variants.base import AutoEncoder, Phase
from variants.losses import gaussian_kl, pixel_error
from variants.networks import SigmaHead


class VAE(AutoEncoder):
    """The negative ELBO: -log p(x|z) + beta * KL(q(z|x) || p(z)) with beta = 1, summed over pixels and dimensions."""

    beta = 1.0

    @dataclass(frozen=True)
    class Options(AutoEncoder.Options):
        sigma: SigmaHead = "exp"

    def phases(self) -> dict[str, Phase]:
        return {"elbo": Phase(self.elbo_loss, updates=(self.encoder, self.decoder))}

    def elbo_loss(self, x: Tensor) -> Tensor:
        return self.reconstruction_error(x) + self.beta * gaussian_kl(*self.posterior(x))

    def reconstruction_error(self, x: Tensor) -> Tensor:
        """-log p(x|z) with z ~ q(z|x), in nats up to a constant."""
        return pixel_error(self.decode(self.encode(x)), x)
