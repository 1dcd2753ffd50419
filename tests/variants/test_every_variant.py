"""What holds for every variant, a new one included, in every architecture."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from harness.evaluation.classifier import load_classifier
from tests.engines import build_engine
from variants import VARIANTS, Architecture, AutoEncoder, Variant, build
from variants.context import Context

Z, B = 10, 8
AUTO_ENCODERS = [name for name in VARIANTS if issubclass(VARIANTS[name], AutoEncoder)]


every_architecture = pytest.mark.parametrize("architecture", get_args(Architecture))


def build_default(name: str, architecture: Architecture, image_size: int = 32) -> Variant:
    torch.manual_seed(0)
    variant = build(name, VARIANTS[name].Options(), (3, image_size, image_size), Z, architecture)
    variant.use(Context(features=load_classifier("digits", 32)[0].requires_grad_(False).activations))
    return variant


@pytest.fixture
def x() -> Tensor:
    return torch.rand(B, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("bf16", [False, True])
@every_architecture
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_are_finite_scalars(name: str, architecture: Architecture, bf16: bool, x: Tensor) -> None:
    variant = build_default(name, architecture)
    for phase in variant.phases():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = variant(phase, x)
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()


@every_architecture
@pytest.mark.parametrize("name", VARIANTS)
def test_a_phase_changes_what_it_updates_and_nothing_else(name: str, architecture: Architecture, x: Tensor) -> None:
    engine = build_engine(build_default(name, architecture))
    engine._begin(x)
    for phase_name, phase in engine.phases.items():
        before = {key: p.detach().clone() for key, p in engine.variant.named_parameters()}
        engine._compute_gradients(phase_name)
        engine._apply_gradients(phase_name)
        updated = {id(p) for module in phase.updates for p in module.parameters()}
        for key, parameter in engine.variant.named_parameters():
            changed = not torch.equal(before[key], parameter)
            assert changed == (id(parameter) in updated), f"{key} in {phase_name}"


@pytest.mark.parametrize("image_size", [32, 64, 128])
@every_architecture
@pytest.mark.parametrize("name", VARIANTS)
def test_samples_are_images_in_minus_one_to_one(name: str, architecture: Architecture, image_size: int) -> None:
    variant = build_default(name, architecture, image_size)
    images = variant.decode(variant.sample_prior(B))
    assert images.shape == (B, 3, image_size, image_size)
    assert images.abs().max() <= 1


@every_architecture
@pytest.mark.parametrize("name", AUTO_ENCODERS)
def test_both_sigma_heads(name: str, architecture: Architecture, x: Tensor) -> None:
    encoders = {}
    for head in ("linear", "exp"):
        torch.manual_seed(0)
        options = VARIANTS[name].Options(sigma=head)  # pyright: ignore[reportCallIssue]
        variant = build(name, options, (3, 32, 32), Z, architecture)
        assert isinstance(variant, AutoEncoder)
        encoders[head] = variant.posterior(x)
    (mu_linear, sigma_linear), (mu_exp, sigma_exp) = encoders["linear"], encoders["exp"]
    assert torch.equal(mu_linear, mu_exp)
    assert (sigma_linear < 0).any(), "the published head is signed"
    torch.testing.assert_close(sigma_exp, (sigma_linear / 2).exp())


@every_architecture
@pytest.mark.parametrize("name", AUTO_ENCODERS)
def test_phases_share_an_encoding_only_while_the_encoder_stays(
    name: str, architecture: Architecture, x: Tensor
) -> None:
    variant = build_default(name, architecture)
    assert isinstance(variant, AutoEncoder)
    first = variant.posterior(x)[0]
    assert variant.posterior(x)[0] is first
    assert variant.posterior(x.clone())[0] is not first
    first = variant.posterior(x)[0]
    variant.after_update((variant.encoder,))
    assert variant.posterior(x)[0] is not first
