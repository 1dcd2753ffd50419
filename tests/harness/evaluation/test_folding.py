"""Networks made quicker: the same features, or the network as it comes and a word about it."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.evaluation.folding import TOLERANCE, choose_quicker, fold


class Small(nn.Module):
    """Convolutions with BatchNorms that have seen data, and features without classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)
        )
        for layer in self.body:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean, layer.running_var = (
                    torch.randn(layer.num_features),
                    torch.rand(layer.num_features) + 0.5,
                )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x / 255).mean(dim=(2, 3))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def extract_with(network: Any) -> Any:
    return lambda pixels: (network(pixels), None)


IMAGES = torch.randint(0, 256, (3, 3, 20, 20), generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("scripted", [False, True], ids=["module", "TorchScript"])
def test_features_stay_the_same_without_batchnorms(network: nn.Module, scripted: bool) -> None:
    given: Any = torch.jit.script(network) if scripted else network
    with torch.no_grad():
        expected, folded = network(IMAGES), fold(given)
        made = folded(IMAGES)
    assert 0 <= (made - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert (
        "batch_norm" not in str(folded.graph)
        if scripted
        else not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    )
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()), "the network itself stays as it was"


def test_the_quicker_network_is_used_where_it_makes_the_same(network: nn.Module) -> None:
    quicker = extract_with(fold(network))
    assert choose_quicker(extract_with(network), lambda: quicker, IMAGES, "it") is quicker


def test_one_that_makes_other_features_is_not_used(network: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    plain = extract_with(network)
    with caplog.at_level(logging.WARNING):
        chosen = choose_quicker(
            plain, lambda: lambda pixels: (network(pixels) * 1.001, None), IMAGES, "the extractor it"
        )
    assert chosen is plain
    assert "the extractor it, folded, makes features that differ by 0.001: it is used as it comes" in caplog.text


def test_one_that_cannot_be_folded_is_used_as_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    class Conditional(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() > 0 else x.mean(dim=(2, 3))  # torch.fx cannot follow it

    network = Conditional().eval()
    plain = extract_with(network)
    with caplog.at_level(logging.WARNING):
        assert choose_quicker(plain, lambda: extract_with(fold(network)), IMAGES, "it") is plain
    assert "it cannot be folded" in caplog.text
