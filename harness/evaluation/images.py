"""Sets of numbered images to score. Image i is the same whoever makes it, in whatever batch, on how many processes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from harness.data.sets import TrainingSet
from harness.errors import DivergedError
from harness.evaluation.finite import require_finite
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.samplers import CodeDistribution, build_prior
from harness.protocol import Reading
from harness.seeding import Stream, build_generator, compute_permutation
from harness.sending import send
from harness.timing import timed
from variants import AutoEncoder, Variant

CPU = torch.device("cpu")
BLOCK = 256  # codes that follow from one seed
AHEAD = 2**16  # codes that are drawn and sent to the device at once


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
        self.images, self.order = images, compute_permutation(len(images), 0, 0).to(images.device)

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.arange(first, last), self.images[self.order[first:last]]


class GeneratedImages(NumberedImages):
    """What a variant's decoder makes of codes drawn from a distribution; code i follows from (seed, i)."""

    def __init__(self, variant: Variant, codes: CodeDistribution, reading: Reading, seed: int, device: torch.device):
        self.variant, self.reading = variant, reading
        self.codes = CodesAhead(partial(draw_codes, codes, seed, "evaluation", device=device), reading.n_fake)

    def __len__(self) -> int:
        return self.reading.n_fake

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        with timed("codes"):
            codes = self.codes(first, last)
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
        self.variant, self.data, self.reading, self.device = variant, data, reading, device
        evenly = torch.arange(reading.n_fake) * len(data) // reading.n_fake
        self.rows = compute_permutation(len(data), 0, 0)[evenly].to(data.images.device)
        prior = build_prior(variant.latent_dim)
        self.eps = CodesAhead(partial(draw_codes, prior, seed, "reconstructions", device=device), reading.n_fake)

    def __len__(self) -> int:
        return self.reading.n_fake

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        with timed("codes"), evaluation_mode(self.variant, self.reading.normalisation):
            mu, sigma = self.variant.posterior(self.data.batch(self.rows[first:last], self.device))
            codes = mu + sigma * self.eps(first, last)
        with timed("decode"):
            with evaluation_mode(self.variant, self.reading.normalisation):
                x_hat = self.variant.decode(codes)
            pixels = to_pixels(x_hat, self.reading.quantisation)
        yield torch.arange(first, last), pixels


class CodesAhead:
    """The codes of n numbered images, drawn many at a time: then no batch waits for its own to be sent.

    Args: draw: codes first ... last - 1 (last - first, Z), where they are wanted.
    """

    def __init__(self, draw: Callable[[int, int], Tensor], n: int) -> None:
        self.draw, self.n = draw, n
        self.first, self.held = 0, torch.empty(0, 0)

    def __call__(self, first: int, last: int) -> Tensor:
        """Codes first ... last - 1."""
        if not self.first <= first <= last <= self.first + len(self.held):
            self.first, self.held = first, self.draw(first, max(last, min(first + AHEAD, self.n)))
        return self.held[first - self.first : last - self.first]


def draw_codes(
    codes: CodeDistribution, seed: int, stream: Stream, first: int, last: int, device: torch.device = CPU
) -> Tensor:
    """Codes first ... last - 1 of an endless sequence: (last - first, Z) on a device; code i follows from (seed, i).

    Drawn by the CPU, so that they are the same on every device, and placed by blocks, so that none depends on others.
    """
    blocks = range(first // BLOCK, (last - 1) // BLOCK + 1)
    noise = [codes.draw_noise(BLOCK, build_generator(seed, stream, block)) for block in blocks]
    sent, there = (send(torch.cat(drawn), device).split(BLOCK) for drawn in zip(*noise, strict=True)), codes.to(device)
    placed = torch.cat([there.place(eps, which) for eps, which in zip(*sent, strict=True)])
    return placed[first - blocks[0] * BLOCK :][: last - first]


def to_pixels(x: Tensor, quantisation: str) -> Tensor:
    """Images in [-1, 1] to [0, 255]: with `uint8` rounded, as a saved PNG would be; with `none` float32 as they are.

    Raises: DivergedError for an image that is not finite (`require_finite`).
    """
    require_finite(x, DivergedError, "the decoder's images are not finite")
    pixels = (x.float() + 1) * 127.5
    return pixels.round().clamp(0, 255).to(torch.uint8) if quantisation == "uint8" else pixels
