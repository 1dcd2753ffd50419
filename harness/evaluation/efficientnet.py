"""EfficientNet-Lite0, trained on ImageNet (Tan & Le 2019, without what phones find hard): features and activations."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import InputError

SIZE = 224  # px, as it was trained
HALVINGS = 4  # of the image, before each of which a variant may compare activations


class Features(nn.Module):
    """Pixels (B, 3, H, W) in [0, 255] to features (B, 1280): the mean over the positions of the last convolution."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.extract_features(_normalise(pixels)).mean(dim=(2, 3))


def load_efficientnet(weights: Path, device: torch.device) -> Any:
    """The network in eval mode, its weights frozen; its `_fc` makes ImageNet's 1,000 logits of the features.

    Raises: InputError if the file holds others.
    """
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 (an extra)

    network: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a file that is none of torch's raises many kinds
        raise InputError(f"{weights} is not EfficientNet-Lite0: {str(error).splitlines()[0]}") from error
    return network.requires_grad_(False).to(device).eval()


def make_activations(network: Any, pixels: Tensor) -> list[Tensor]:
    """Pixels (B, 3, H, W) in [0, 255] to the activations (B, C, h, w) before each of its HALVINGS after the first."""
    activations: list[Tensor] = []
    x = network._swish(network._bn0(network._conv_stem(_normalise(pixels))))
    for block in network._blocks:
        before, x = x, block(x)
        if x.shape[2:] != before.shape[2:]:
            activations.append(before)
    return activations[:HALVINGS]


def _normalise(pixels: Tensor) -> Tensor:
    return (pixels - 127) / 128
