"""The fixed network whose hidden activations a variant may compare."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.config import RunConfig
from harness.errors import InputError
from harness.evaluation.classifier import load_classifier


def load_feature_network(config: RunConfig, device: torch.device) -> Callable[[Tensor], Sequence[Tensor]]:
    """Images (B, C, S, S) in [-1, 1] to hidden activations, a tensor per layer.

    `feature_weights` names a TorchScript file (.pt, .pth: its output is a tensor, or a tuple of them) or a domain
    classifier's weights (.safetensors); without it, it is the domain classifier of the data set.
    Raises: InputError if the file is neither, or the data have no labels to train the classifier on.
    """
    weights = config.feature_weights
    if weights is None or weights.suffix == ".safetensors":
        classifier, _ = load_classifier(config.dataset, config.image_size, weights, field="feature_weights")
        return classifier.requires_grad_(False).to(device).activations
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit")
            network = torch.jit.load(weights, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{weights} is no TorchScript file: {str(error).splitlines()[0]}") from error

    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def activations(x: Tensor) -> Sequence[Tensor]:
        output = network(x)
        return [output] if isinstance(output, Tensor) else output

    return activations
