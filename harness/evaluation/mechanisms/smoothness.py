"""How smoothly images change along a path of codes: the perceptual path length, in the extractor's features."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.evaluation.extractors import Extractor
from harness.evaluation.images import CodesAhead, NumberedImages, draw_codes, to_pixels
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.samplers import build_prior
from harness.evaluation.statistics import gather_statistics
from harness.launch.processes import Processes
from harness.protocol import Reading
from harness.sending import send
from variants import Variant

PATHS = 2000
EPSILON = 1e-4


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Between codes (B, Z) at t (B, 1): along the arc between their directions, lengths mixed linearly.

    A straight line between two draws of N(0, I) would pass nearer to the origin than draws lie. Between codes of
    opposite or equal direction, and of one dimension, it is the straight line.
    """
    lengths = [code.norm(dim=1, keepdim=True) for code in (a, b)]
    tiny = torch.finfo(a.dtype).tiny
    u, v = (code / length.clamp(min=tiny) for code, length in zip((a, b), lengths, strict=True))
    angle = torch.atan2((u - v).norm(dim=1, keepdim=True), (u + v).norm(dim=1, keepdim=True)) * 2
    sine = angle.sin()
    direction = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / sine
    arc = direction * ((1 - t) * lengths[0] + t * lengths[1])
    return torch.where(sine > 1e-6, arc, (1 - t) * a + t * b)


class PathImages(NumberedImages):
    """Two images of each of 2,000 paths between draws of the prior: image 2 i at t, image 2 i + 1 at t + 1e-4.

    Decoded side by side, in one batch: where BatchNorm uses a batch's statistics, both have the same. Not quantised, as
    a step of 1e-4 would be lost.
    """

    def __init__(self, variant: Variant, reading: Reading, seed: int, device: torch.device, paths: int = PATHS) -> None:
        self.variant, self.reading, self.seed, self.paths = variant, reading, seed, paths
        self.ahead = CodesAhead(lambda first, last: send(self.codes(first, last), device), len(self))

    def __len__(self) -> int:
        return 2 * self.paths

    def parts(self, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
        with evaluation_mode(self.variant, self.reading.normalisation):
            x = self.variant.decode(self.ahead(first, last))
        yield torch.arange(first, last), to_pixels(x, "none")

    def codes(self, first: int, last: int) -> Tensor:
        """Those of images first ... last - 1: (last - first, Z) float32 on the CPU. Both are even numbers."""
        # Three draws a path: its two ends, and one for t, whose first coordinate becomes uniform in [0, 1).
        drawn = draw_codes(build_prior(self.variant.latent_dim), self.seed, "paths", 3 * first // 2, 3 * last // 2)
        ends = drawn.double().reshape(-1, 3, drawn.shape[1])
        t = torch.special.ndtr(ends[:, 2, :1])
        return torch.stack([slerp(ends[:, 0], ends[:, 1], at) for at in (t, t + EPSILON)], 1).flatten(0, 1).float()


def path_length(features: Tensor) -> float:
    """E |f(t + eps) - f(t)|^2 / eps^2 of features (2 n, F), those of a path one after the other (Karras et al. 2019,
    section 4.1, with this distance in place of LPIPS).
    """
    steps = features[1::2].double() - features[::2].double()
    return (steps.square().sum(1).mean() / EPSILON**2).item()


def measure_path_length(
    variant: Variant,
    extractor: Extractor,
    reading: Reading,
    seed: int,
    processes: Processes,
    after_batch: Callable[[int, int], None] = lambda done, n: None,
) -> float:
    """`path_length` of a variant's decoder, in float32. Every process calls it, and featurises its share."""
    images = PathImages(variant, reading, seed, processes.device)
    batch_size = max(2, reading.batch_size // 2 * 2)  # even, so that a path's two images share a batch
    exact = extractor.in_float32()  # a step of 1e-4 drowns in the rounding of a protocol's autocast
    statistics = gather_statistics(images, exact, processes, batch_size, lambda done: after_batch(done, len(images)))
    return path_length(statistics.features)
