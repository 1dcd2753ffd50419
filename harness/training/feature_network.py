"""The fixed network whose hidden activations a variant may compare."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.config import RunConfig
from harness.data.weights import find_weights
from harness.evaluation.classifier import load_classifier
from harness.evaluation.efficientnet import load_efficientnet, make_activations
from harness.evaluation.extractors import load_torchscript, three_channels, warn_of_torchscript
from harness.imagenet import EFFICIENTNET


def load_feature_network(config: RunConfig, device: torch.device) -> Callable[[Tensor], Sequence[Tensor]]:
    """Images (B, C, S, S) in [-1, 1] to hidden activations, a tensor per layer.

    `feature_weights` names a TorchScript file (.pt, .pth: its output is a tensor, or a tuple of them), a domain
    classifier's weights (.safetensors), or efficientnet_lite0; without it, it is the domain classifier of the data set.
    Raises: InputError if the file is neither, or the data have no labels to train the classifier on.
    """
    weights = config.feature_weights
    if weights is None or weights.suffix == ".safetensors":
        classifier, _ = load_classifier(
            config.dataset, config.image_size, weights, field="feature_weights", crop=config.crop
        )
        return classifier.requires_grad_(False).to(device).activations
    if weights == Path(EFFICIENTNET):
        imagenet = load_efficientnet(find_weights(EFFICIENTNET), device)
        return lambda x: make_activations(imagenet, three_channels(127.5 * (x + 1)))
    warn_of_torchscript(weights, "check where it comes from")
    network = load_torchscript(weights, device)
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def activations(x: Tensor) -> Sequence[Tensor]:
        output = network(x)
        return [output] if isinstance(output, Tensor) else output

    return activations
