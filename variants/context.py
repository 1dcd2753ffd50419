"""What surrounds a variant while it computes: its draws, its masks, its precision, and whose features it compares."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]


class Context:
    """This one draws from torch's global random state and computes in float32; a trainer brings its own.

    Args: device: of the draws, by default torch's. features: a fixed network, of images (B, C, S, S) in [-1, 1] to its
        hidden activations, a tensor a layer.
    """

    def __init__(self, device: torch.device | str | None = None, features: Features | None = None) -> None:
        self.device, self._features = device, features

    def noise(self, n: int, latent_dim: int) -> Tensor:
        """A standard normal draw for each of n images: (n, Z)."""
        return torch.randn(n, latent_dim, device=self.device)

    def mask(self, n: int, width: int, keep: float) -> Tensor:
        """Ones with probability `keep`, else zeros, for each of n images: (n, width)."""
        return torch.empty(n, width, device=self.device).bernoulli_(keep)

    def casting(self) -> AbstractContextManager[None]:
        """The precision of a forward pass, entered inside it: DeepSpeed switches off what is entered around it."""
        return nullcontext()

    def reaching(self, module: nn.Module) -> AbstractContextManager[None]:
        """Inside, gradients reach a module's parameters, also where the phase under way does not update them."""
        return _thawed(module)

    def features(self, x: Tensor) -> Sequence[Tensor]:
        """The hidden activations of the fixed network for images (B, C, S, S). Raises: RuntimeError without one."""
        if self._features is None:
            raise RuntimeError("this variant compares the features of a network that nobody has set")
        return self._features(x)


@contextmanager
def _thawed(module: nn.Module) -> Iterator[None]:
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


class InContext:
    """A module that needs its variant's context: `Variant.use` gives it to all of them."""

    context = Context()
