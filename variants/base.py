"""What a variant is: its networks plus an ordered table of phases."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from variants.context import Context, InContext
from variants.layers import PLAIN, Layers
from variants.networks import Architecture, Decoder, Encoder, SigmaHead

LARGEST_WEIGHT = 1_000_000


@dataclass(frozen=True)
class Phase:
    """One loss and the modules that it updates. Modules that it does not update are frozen while it runs."""

    loss: Callable[[Tensor], Tensor]
    updates: tuple[nn.Module, ...]
    repeats: int = 1


class Variant(InContext, nn.Module, ABC):
    """A generative model over images (C, S, S) with codes (Z,), trained phase by phase.

    `Options` is a frozen dataclass of the variant's own parameters; its `__post_init__` raises ValueError for a value
    that makes no sense. The type annotations are enforced by whoever reads them from a user.
    """

    # Whether the context must have features.
    needs_feature_network = False

    @dataclass(frozen=True)
    class Options:
        pass

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        options: Options,
        architecture: Architecture = "mlp",
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.architecture: Architecture = architecture
        self.build_networks(options)

    @abstractmethod
    def build_networks(self, options: Any) -> None:
        """Make the networks for `image_shape`, `latent_dim` and `architecture`; keep what the losses read of options.

        Args: options: an instance of the class's own Options, which no common type describes.
        Raises: ValueError for an image that the architecture cannot take.
        """

    @abstractmethod
    def phases(self) -> dict[str, Phase]:
        """The phases of one training step, in order."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Codes (B, Z) to images (B, C, S, S) in [-1, 1]; on the sampling path z is drawn from the prior."""

    def decoding_modules(self) -> tuple[nn.Module, ...]:
        """The modules that `decode` runs through: what is averaged while training, and what an export keeps.

        All of the variant's own modules but its encoder and discriminators, by name; override where that is not so.
        """
        names = (name for name, _ in self.named_children() if name != "encoder" and not name.endswith("discriminator"))
        return tuple(self.get_submodule(name) for name in names)

    def forward(self, phase: str, x: Tensor) -> Tensor:
        """The loss of one phase on images (B, C, S, S): a float32 scalar."""
        with self.context.casting():
            return self.phases()[phase].loss(x)

    def use(self, context: Context) -> None:
        """Take draws, masks, precision and features from this context from now on, in all modules."""
        for module in self.modules():
            if isinstance(module, InContext):
                module.context = context

    def after_update(self, modules: tuple[nn.Module, ...]) -> None:
        """The trainer says which modules it has just changed, so that nothing computed with them is used again."""

    def hand_over(self, x: Tensor) -> tuple[Tensor, ...]:
        """What phases have computed of images x that later ones use again: for who calls each phase by itself, as a

        function of tensors (torch.func), and gives it back by `take_over`.
        """
        return ()

    def take_over(self, x: Tensor, handed: tuple[Tensor, ...]) -> None:
        """Use what `hand_over` gave as computed of images x; an empty tuple forgets it."""

    def sample_prior(self, n: int) -> Tensor:
        """n draws from p(z) = N(0, I): (n, Z)."""
        return self.context.noise(n, self.latent_dim)


class AutoEncoder(Variant):
    """A variant with a Gaussian encoder q(z|x) = N(mu(x), sigma(x)^2) and a decoder."""

    @dataclass(frozen=True)
    class Options(Variant.Options):
        sigma: SigmaHead = "linear"
        sigma_floor: float = 0.0

        def __post_init__(self) -> None:
            require_weights(sigma_floor=self.sigma_floor)

    _shared: tuple[Tensor, Tensor, Tensor] | None = None  # an image batch, its mu and sigma

    def build_networks(self, options: Any) -> None:
        shapes, layers = (self.image_shape, self.latent_dim), self.layers(options)
        self.encoder = Encoder(*shapes, options.sigma, options.sigma_floor, layers, self.architecture)
        self.decoder = Decoder(*shapes, layers, self.architecture)

    def layers(self, options: Any) -> Layers:
        """The layers that encoder and decoder are built of."""
        return PLAIN

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and sigma of q(z|x): (B, Z) each.

        While training, phases between two updates of the encoder share one forward pass. It is taken with the encoder
        trainable even inside a phase that freezes it, so that a later phase can still reach the encoder through it;
        a phase that must not, detaches.
        """
        if not self.training:
            return self.encoder(x)
        if self._shared is None or self._shared[0] is not x:
            self._shared = None  # before the next one is made: two graphs of the encoder would take twice the memory
            with self.context.reaching(self.encoder):
                self._shared = (x, *self.encoder(x))
        return self._shared[1:]

    def after_update(self, modules: tuple[nn.Module, ...]) -> None:
        if self.encoder in modules:
            self._shared = None

    def hand_over(self, x: Tensor) -> tuple[Tensor, ...]:
        return () if self._shared is None or self._shared[0] is not x else self._shared[1:]

    def take_over(self, x: Tensor, handed: tuple[Tensor, ...]) -> None:
        self._shared = (x, *handed) if len(handed) == 2 else None

    def encode(self, x: Tensor) -> Tensor:
        """A draw z = mu + sigma * eps from q(z|x) for each image: (B, Z)."""
        mu, sigma = self.posterior(x)
        return mu + sigma * self.context.noise(len(x), self.latent_dim)

    def map_codes(self, z: Tensor) -> Tensor:
        """What the decoder is given for codes (B, Z): z itself, or what a mapping makes of it."""
        return z

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.map_codes(z))


def require_weights(**options: float) -> None:
    """Raises: ValueError naming an option that is a factor or a bound and is negative, or so large that nobody means
    it.
    """
    for name, value in options.items():
        if not 0 <= value <= LARGEST_WEIGHT:
            raise ValueError(f"{name} is {value}; it must be a number from 0 to {LARGEST_WEIGHT:,}")
