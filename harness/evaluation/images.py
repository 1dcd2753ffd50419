"""Sets of numbered images to score. Image i is the same whoever makes it, in whatever batch, on how many processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.data.sets import TrainingSet
from harness.errors import DivergedError
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.samplers import CodeDistribution, build_prior
from harness.protocol import Reading
from harness.seeding import Stream, build_generator, compute_permutation
from harness.timing import timed
from variants import AutoEncoder, Variant

BLOCK = 256  # codes drawn at once


class NumberedImages(ABC):
    """n images with numbers 0 ... n - 1, in an order that tells nothing about them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images first ... last - 1, those of one shape together.

        Yields: their numbers (B,) on the CPU, and pixels (B, C, H, W), uint8 or float32 in [0, 255].
        """


class PreparedImages(NumberedImages):
    """Images (N, C, S, S) uint8 in memory, in a fixed random order."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.order = images, compute_permutation(len(images), 0, 0)

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(first, last), self.images[self.order[first:last].to(self.images.device)]


class GeneratedImages(NumberedImages):
    """What a variant's decoder makes of codes drawn from a distribution; code i follows from (seed, i)."""

    def __init__(self, variant: Variant, codes: CodeDistribution, reading: Reading, seed: int, device: torch.device):
        self.variant, self.codes, self.reading, self.seed, self.device = variant, codes, reading, seed, device

    def __len__(self) -> int:
        return self.reading.n_fake

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        with timed("codes"):
            codes = draw_codes(self.codes, self.seed, "evaluation", first, last).to(self.device)
        with timed("decode"):
            with evaluation_mode(self.variant, self.reading.normalisation):
                x = self.variant.decode(codes)
            pixels = to_pixels(x, self.reading.quantisation)
        yield torch.arange(first, last), pixels


class Reconstructions(NumberedImages):
    """G(z), z ~ q(z|x), of training images x: images i are spread evenly over the training set, in random order.

    Their FID is the decoder's error; what prior samples have beyond it is the mismatch of prior and posterior.
    """

    def __init__(self, variant: AutoEncoder, data: TrainingSet, reading: Reading, seed: int, device: torch.device):
        self.variant, self.data, self.reading, self.seed, self.device = variant, data, reading, seed, device
        self.order = compute_permutation(len(data), 0, 0)

    def __len__(self) -> int:
        return self.reading.n_fake

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        numbers = torch.arange(first, last)
        with timed("codes"), evaluation_mode(self.variant, self.reading.normalisation):
            x = self.data.batch(self.order[numbers * len(self.data) // len(self)], self.device)
            eps = draw_codes(build_prior(self.variant.latent_dim), self.seed, "reconstructions", first, last)
            mu, sigma = self.variant.posterior(x)
            codes = mu + sigma * eps.to(self.device)
        with timed("decode"):
            with evaluation_mode(self.variant, self.reading.normalisation):
                x_hat = self.variant.decode(codes)
            pixels = to_pixels(x_hat, self.reading.quantisation)
        yield numbers, pixels


def draw_codes(codes: CodeDistribution, seed: int, stream: Stream, first: int, last: int) -> Tensor:
    """Codes first ... last - 1 of an endless sequence: (last - first, Z) on the CPU; code i follows from (seed, i)."""
    blocks = range(first // BLOCK, (last - 1) // BLOCK + 1)
    drawn = torch.cat([codes.draw(BLOCK, build_generator(seed, stream, block)) for block in blocks])
    return drawn[first - blocks[0] * BLOCK :][: last - first]


def to_pixels(x: Tensor, quantisation: str) -> Tensor:
    """Images in [-1, 1] to [0, 255]: with `uint8` rounded, as a saved PNG would be; with `none` float32 as they are.

    Raises: DivergedError for an image that is not finite.
    """
    if not x.isfinite().all():
        raise DivergedError("the decoder's images are not finite")
    pixels = (x.float() + 1) * 127.5
    return pixels.round().clamp(0, 255).to(torch.uint8) if quantisation == "uint8" else pixels
