"""Feature extractors: images in, features and class probabilities out, in one forward pass."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.config import RunConfig
from harness.errors import InputError
from harness.evaluation.classifier import SIZE, load_classifier
from harness.staging import inception_path


@dataclass(frozen=True)
class Extractor:
    """Images (B, C, S, S) uint8 to features (B, F) and class probabilities (B, K), float32.

    `sha256` identifies the weights and `resize` how images were brought to the network's size: both are part of the
    protocol.
    """

    name: str
    sha256: str
    resize: str
    n_features: int
    n_classes: int
    extract: Callable[[Tensor], tuple[Tensor, Tensor]]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.extract(images)


def build_extractor(config: RunConfig, device: torch.device) -> Extractor:
    """The extractor that a run names, never another one.

    Raises: InputError if its weights are missing or are something else.
    """
    if config.extractor == "inception":
        return _build_inception(config.extractor_weights or inception_path(), device)
    classifier, sha256 = load_classifier(config.dataset, config.image_size, config.extractor_weights)
    classifier.to(device)

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = classifier(images)
        return features, logits.softmax(dim=1)

    resize = f"{SIZE} px, bilinear, antialiased"
    return Extractor("domain", sha256, resize, classifier.n_features, classifier.n_classes, extract)


def _build_inception(weights: Path, device: torch.device) -> Extractor:
    """clean-fid's Inception-v3: a TorchScript module with `layers` (pooled features) and `output` (ImageNet logits).

    Parmar et al. 2022. Pixels reach `layers` as (v - 128) / 128.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit")
            network = torch.jit.load(weights, map_location=device).eval()
        layers, output = network.layers, network.output
        n_classes, n_features = output.weight.shape
    except (RuntimeError, AttributeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{weights} is not clean-fid's Inception as TorchScript: {reason}") from error

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = clean_resize(images, 299)
        features = layers((pixels.expand(-1, 3, -1, -1) - 128) / 128).flatten(1).float()
        return features, output(features).softmax(dim=1)

    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    return Extractor("inception", sha256, "299 px, clean", n_features, n_classes, extract)


def clean_resize(images: Tensor, size: int) -> Tensor:
    """clean-fid's resize (PIL's antialiased bicubic on float pixels), on the device: (B, C, H, W) uint8 to
    (B, C, size, size) float32 in [0, 255].

    It is linear, so it is two products with fixed matrices, clamped.
    """
    vertical, horizontal = (_resize_matrix(n, size, images.device) for n in images.shape[2:])
    return (vertical @ images.to(torch.float32) @ horizontal.T).clamp_(0, 255)


def _resize_matrix(n: int, size: int, device: torch.device) -> Tensor:
    """(size, n): row i holds the weights of output pixel i."""
    identity = torch.eye(n, dtype=torch.float64)[None, None]  # in float32 the positions of the taps are too coarse
    return interpolate(identity, (size, n), mode="bicubic", antialias=True)[0, 0].to(device, torch.float32)
