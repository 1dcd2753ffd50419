"""The context in which a variant trains: the run's own draws, its precision, its feature network."""

from contextlib import AbstractContextManager

from torch import Tensor

from harness.precision import Precision, casting
from harness.seeding import GlobalNoise
from variants.context import Context, Features


class TrainingContext(Context):
    """What an image draws depends on the seed, the step and its place in the global batch: see GlobalNoise."""

    def __init__(self, draws: GlobalNoise, precision: Precision, features: Features | None = None) -> None:
        super().__init__(draws.generator.device, features)
        self.draws = draws
        self.precision: Precision = precision

    def noise(self, n: int, latent_dim: int) -> Tensor:
        return self.draws(n, latent_dim)

    def mask(self, n: int, width: int, keep: float) -> Tensor:
        return self.draws.mask(n, width, keep)

    def casting(self) -> AbstractContextManager[None]:
        return casting(self.precision, self.draws.generator.device)
