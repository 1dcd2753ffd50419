"""A network made quicker for inference alone: the same features, half as many images a second again on a CPU."""

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of the largest value: within it, a quicker network is no other protocol
Extraction = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def fold(network: Any) -> Any:
    """A copy with its BatchNorms folded into the convolutions before them, and its weights channels-last.

    Args: network: in eval mode, a ScriptModule or a Module that torch.fx can trace.
    Raises: whatever TorchScript and torch.fx raise for a network that they cannot take.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and is what the field's Inception comes in
        laid_out = copy.deepcopy(network).to(memory_format=torch.channels_last)
        if isinstance(network, torch.jit.ScriptModule):
            return torch.jit.freeze(laid_out)
        from torch.fx.experimental.optimization import fuse  # noqa: PLC0415 (takes 0.3 s)

        return fuse(laid_out)


@torch.no_grad()
def choose_quicker(extract: Extraction, build: Callable[[], Extraction], example: Tensor, name: str) -> Extraction:
    """What `build` makes if it does as `extract` with an example, within TOLERANCE; else `extract`, and a warning.

    Args: example: pixels (B, C, H, W) of a few different images.
    """
    try:
        quicker = build()
        quicker(example)  # TorchScript optimises from the second call on
        difference = max(map(measure_difference, quicker(example), extract(example)))
    except Exception as error:  # open-ended: the network may be anybody's, and works as it is
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        logger.warning("%s cannot be folded (%s): it is used as it comes, which takes longer", name, reason)
        return extract
    if not difference <= TOLERANCE:
        logger.warning("%s, folded, makes features that differ by %.1g: it is used as it comes", name, difference)
        return extract
    return quicker


def measure_difference(made: Tensor | None, expected: Tensor | None) -> float:
    """The largest difference, relative to the largest value."""
    if made is None or expected is None:
        return 0.0
    return float((made - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
