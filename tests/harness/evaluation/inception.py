"""A network with the interface of clean-fid's Inception file and random weights: the real one cannot be had offline."""

from pathlib import Path

import torch
from torch import Tensor, nn


class InceptionLike(nn.Module):
    """2048 features in `layers`, 1008 classes in `output`, `return_features` in `forward`, images in [0, 255]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 13, stride=8),
            nn.ReLU(),
            nn.Conv2d(32, 2048, 7, stride=6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        features = self.layers((x - 128) / 128).flatten(1)
        if return_features:
            return features
        logits = features @ self.output.weight.T
        return (logits if no_output_bias else logits + self.output.bias).softmax(1)


def save_inception(folder: Path) -> Path:
    """The file as clean-fid names it, so that its own loader finds it in the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = InceptionLike()
    path = folder / "inception-2015-12-05.pt"
    torch.jit.script(network).save(path)  # pyright: ignore[reportAttributeAccessIssue]
    return path
