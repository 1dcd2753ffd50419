"""What a variant is: its networks plus an ordered table of phases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.networks import Decoder, Encoder, SigmaHead


@dataclass(frozen=True)
class Phase:
    """One loss and the modules that it updates. Modules that it does not update are frozen while it runs."""

    loss: Callable[[Tensor], Tensor]
    updates: tuple[nn.Module, ...]
    repeats: int = 1


class Variant(nn.Module):
    """A generative model over images (C, S, S) with codes (Z,), trained phase by phase.

    `Options` is a frozen dataclass of the variant's own parameters; its `__post_init__` raises ValueError for a value
    that makes no sense. The type annotations are enforced by whoever reads them from a user.
    """

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, options: Options) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        # The trainer replaces it by draws that depend on the image's place in the global batch alone.
        self.noise: Callable[[int, int], Tensor] = torch.randn

    def phases(self) -> dict[str, Phase]:
        """The phases of one training step, in order."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, Z) to images (B, C, S, S) in [-1, 1]; on the sampling path z is drawn from the prior."""
        raise NotImplementedError

    def forward(self, phase: str, x: Tensor) -> Tensor:
        """The loss of one phase on images (B, C, S, S): a float32 scalar."""
        return self.phases()[phase].loss(x)

    def after_update(self, modules: tuple[nn.Module, ...]) -> None:
        """The trainer says which modules it has just changed, so that nothing computed with them is used again."""

    def sample_prior(self, n: int) -> Tensor:
        """n draws from p(z) = N(0, I): (n, Z)."""
        return self.noise(n, self.latent_dim)


class AutoEncoder(Variant):
    """A variant with a Gaussian encoder q(z|x) = N(mu(x), sigma(x)^2) and a decoder."""

    linear = nn.Linear
    norm = nn.BatchNorm1d

    @dataclass(frozen=True)
    class Options(Variant.Options):
        sigma: SigmaHead = "linear"

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, options: Options) -> None:
        super().__init__(image_shape, latent_dim, options)
        self.encoder = Encoder(image_shape, latent_dim, options.sigma, self.linear, self.norm)
        self.decoder = Decoder(image_shape, latent_dim, self.linear, self.norm)
        self._shared: tuple[Tensor, Tensor, Tensor] | None = None

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma of q(z|x): (B, Z) each.

        While training, phases between two updates of the encoder share one forward pass. It is taken with the encoder
        trainable even inside a phase that freezes it, so that a later phase can still reach the encoder through it;
        a phase that must not, detaches.
        """
        if not self.training:
            return self.encoder(x)
        if self._shared is None or self._shared[0] is not x:
            with _trainable(self.encoder):
                self._shared = (x, *self.encoder(x))
        return self._shared[1:]

    def after_update(self, modules: tuple[nn.Module, ...]) -> None:
        if self.encoder in modules:
            self._shared = None

    def encode(self, x: Tensor) -> Tensor:
        """A draw z = mu + sigma * eps from q(z|x) for each image: (B, Z)."""
        mu, sigma = self.posterior(x)
        return mu + sigma * self.noise(len(x), self.latent_dim)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    before = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(True)
    try:
        yield
    finally:
        for p, requires_grad in zip(module.parameters(), before, strict=True):
            p.requires_grad_(requires_grad)
