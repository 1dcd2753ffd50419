"""A network's forward pass, launched as a CUDA graph where batches of one shape repeat."""

import logging
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from harness import capture
from harness.evaluation.folding import TOLERANCE, Extraction, measure_difference

logger = logging.getLogger(__name__)

PLAIN_CALLS = 2  # of a shape, before the one that captures: TorchScript optimises from the second call on
MOST_SHAPES = 4  # a graph keeps the memory of its activations
# Of larger batches the device is the bound, not its host, and a graph would keep gigabytes: 31 images of 299 px, or
# 2,730 of 32 px.
MOST_VALUES = 2**23

Shape = tuple[torch.Size, torch.dtype]


class Repeated:
    """Calls `extract`, which makes features and probabilities of pixels; captures it for a shape that comes again.

    Contexts that decide on numbers (autocast, tf32) are entered within `extract`, so that they are part of what is
    captured. What it reads besides the pixels must stay where it is. A graph that cannot be captured, or whose features
    differ by more than TOLERANCE from the call's before it, ends capturing for good, with a warning.
    """

    def __init__(self, extract: Extraction, name: str) -> None:
        self.extract, self.name = extract, name
        self.calls: Counter[Shape] = Counter()
        self.captured: dict[Shape, Callable[[Tensor], tuple[Tensor, Tensor | None]]] = {}
        self.refused = False

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raises: what `extract` raises."""
        if self.refused or pixels.numel() > MOST_VALUES or not capture.can_capture(pixels.device):
            return self.extract(pixels)
        shape = pixels.shape, pixels.dtype
        if shape in self.captured:
            return self.captured[shape](pixels)
        self.calls[shape] += 1
        if self.calls[shape] <= PLAIN_CALLS or len(self.captured) == MOST_SHAPES:
            return self.extract(pixels)
        made = capture.warm_up(lambda: self.extract(pixels))
        try:
            launch = _capture(self.extract, pixels)
            difference = max(map(measure_difference, launch(pixels), made))
        except RuntimeError as error:
            self._refuse((str(error).strip() or type(error).__name__).splitlines()[-1])
            return made
        if difference <= TOLERANCE:
            self.captured[shape] = launch
        else:
            self._refuse(f"its features differ by {difference:.1g}")
        return made

    def _refuse(self, reason: str) -> None:
        logger.warning("%s cannot be captured (%s): it is called as it is, which takes longer", self.name, reason)
        self.refused = True
        self.captured.clear()


def _capture(extract: Extraction, pixels: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    held = pixels.clone()
    launch, (features, probabilities) = capture.capture(lambda: extract(held))

    def call(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        held.copy_(pixels)
        launch()
        # Copies, as the next launch writes to the same place.
        return features.clone(), None if probabilities is None else probabilities.clone()

    return call
