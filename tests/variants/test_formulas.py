"""Each variant against its formula, computed here independently from the paper's words."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from tests.engines import build_engine
from variants.aae import AAE
from variants.context import Context
from variants.equal_linear import EqualLinearAAE
from variants.feature import Feature
from variants.kld_loss import KLDLoss
from variants.latent_mapping import LatentMapping
from variants.layers import EqualLinear
from variants.losses import gaussian_kl
from variants.n_iter import NIter

SHAPE, Z, B = (3, 32, 32), 10, 32


class RecordedNoise(Context):
    """Hands out given draws in order, so that a test knows eps and z_prior."""

    def __init__(self, n: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.draws = [torch.randn(B, Z, generator=generator) for _ in range(n)]
        self.used = 0

    def noise(self, n: int, latent_dim: int) -> Tensor:
        assert (n, latent_dim) == (B, Z)
        self.used += 1
        return self.draws[self.used - 1]


@pytest.fixture
def x() -> Tensor:
    return torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def without_dropout(variant: AAE) -> AAE:
    for module in variant.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return variant


def build_seeded(cls: type[AAE], **options: Any) -> AAE:
    torch.manual_seed(3)
    return without_dropout(cls(SHAPE, Z, cls.Options(**options)))


def test_aae_losses(x: Tensor) -> None:
    aae = build_seeded(AAE)
    aae.use(noise := RecordedNoise(4))
    mu, sigma = aae.encoder(x)
    eps, eps_d, z_prior, eps_e = noise.draws
    x_hat = aae.decoder(mu + sigma * eps)
    torch.testing.assert_close(aae("reconstruction", x), (x_hat - x).abs().mean())
    p_real = torch.sigmoid(aae.discriminator(z_prior))
    p_fake = torch.sigmoid(aae.discriminator(mu + sigma * eps_d))
    torch.testing.assert_close(aae("discriminator", x), -p_real.log().mean() - (1 - p_fake).log().mean())
    torch.testing.assert_close(aae("adversary", x), -torch.sigmoid(aae.discriminator(mu + sigma * eps_e)).log().mean())


def test_aae_phases_come_in_the_papers_order() -> None:
    phases = build_seeded(AAE).phases()
    assert list(phases) == ["reconstruction", "discriminator", "adversary"]
    assert all(phase.repeats == 1 for phase in phases.values())


def test_published_architecture() -> None:
    aae = AAE(SHAPE, Z, AAE.Options())
    shapes = {
        name: [tuple(layer.weight.shape) for layer in module.modules() if isinstance(layer, nn.Linear)]
        for name, module in aae.named_children()
    }
    assert shapes == {
        "encoder": [(128, 3072), (64, 128), (Z, 64), (Z, 64)],
        "decoder": [(64, Z), (128, 64), (3072, 128)],
        "discriminator": [(64, Z), (128, 64), (128, 128), (64, 128), (1, 64)],
    }
    norms = [layer.num_features for layer in aae.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert norms == [64, 128]
    assert [layer.p for layer in aae.modules() if isinstance(layer, nn.Dropout)] == [0.3] * 4


def test_mlp_draws_its_layers_in_the_order_in_which_runs_of_the_past_did() -> None:
    """Else the same seed would start, and the same run id stand for, another run."""
    torch.manual_seed(7)
    drawn = {
        name: nn.Linear(*shape)
        for name, shape in {
            "encoder.body.1": (3072, 128),
            "encoder.body.3": (128, 64),
            "encoder.mu_head": (64, Z),
            "encoder.sigma_head": (64, Z),
            "decoder.body.0": (Z, 64),
            "decoder.body.2": (64, 128),
            "decoder.body.5": (128, 3072),
            "discriminator.0": (Z, 64),
        }.items()
    }
    torch.manual_seed(7)
    found = AAE(SHAPE, Z, AAE.Options()).state_dict()
    for name, layer in drawn.items():
        assert torch.equal(found[f"{name}.weight"], layer.weight), name
        assert torch.equal(found[f"{name}.bias"], layer.bias), name


class TestLatentMapping:
    def test_the_mapping_lies_on_both_paths(self, x: Tensor) -> None:
        variant = build_seeded(LatentMapping)
        assert isinstance(variant, LatentMapping)
        z = torch.randn(B, Z)
        layers = [layer for layer in variant.mapping if isinstance(layer, nn.Linear)]
        w = z
        for layer in layers:
            w = F.leaky_relu(F.linear(w, layer.weight, layer.bias), 0.2)
        assert len(layers) == 4
        torch.testing.assert_close(variant.decode(z), variant.decoder(w))
        variant.use(noise := RecordedNoise(1))
        mu, sigma = variant.encoder(x)
        x_hat = variant.decode(mu + sigma * noise.draws[0])
        torch.testing.assert_close(variant("reconstruction", x), (x_hat - x).abs().mean())

    def test_depth_zero_is_the_aae_to_the_bit(self, x: Tensor) -> None:
        results = []
        for cls, options in ((AAE, {}), (LatentMapping, {"depth": 0})):
            engine = build_engine(build_seeded(cls, **options))
            losses = [engine.step(x, step) for step in range(3)]
            results.append((losses[-1], engine.variant.state_dict()))
        (aae_losses, aae), (mapped_losses, mapped) = results
        assert aae_losses == mapped_losses
        assert aae.keys() == mapped.keys()
        assert all(torch.equal(aae[key], mapped[key]) for key in aae)

    def test_the_reconstruction_phase_trains_the_mapping(self, x: Tensor) -> None:
        variant = build_seeded(LatentMapping)
        variant("reconstruction", x).backward()
        assert isinstance(variant, LatentMapping)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in variant.mapping.parameters())


class TestNIter:
    def test_the_discriminator_takes_n_adam_steps_a_batch(self, x: Tensor) -> None:
        engine = build_engine(build_seeded(NIter, n=4))
        engine.step(x, 0)
        engine.step(x, 1)
        steps = {
            phase: {int(engine.optimizer.state[p][f"{phase}/step"]) for m in table.updates for p in m.parameters()}
            for phase, table in engine.phases.items()
        }
        assert steps == {"reconstruction": {2}, "discriminator": {8}, "adversary": {2}}

    def test_each_repeat_sees_fresh_noise(self, x: Tensor) -> None:
        variant = build_seeded(NIter, n=3)
        assert variant("discriminator", x) != variant("discriminator", x)

    def test_n_defaults_to_the_published_three(self) -> None:
        assert build_seeded(NIter).phases()["discriminator"].repeats == 3

    def test_zero_updates_are_refused(self) -> None:
        with pytest.raises(ValueError, match="1 to 1,000"):
            NIter.Options(n=0)


class TestKLDLoss:
    @pytest.mark.parametrize("direction", ["posterior_prior", "prior_posterior"])
    def test_kl_equals_torch_distributions(self, direction: str) -> None:
        mean, sigma = torch.randn(B, Z), torch.randn(B, Z)
        posterior, prior = Normal(mean, sigma.abs()), Normal(torch.zeros(B, Z), torch.ones(B, Z))
        pair = (posterior, prior) if direction == "posterior_prior" else (prior, posterior)
        expected = kl_divergence(*pair).sum(dim=1).mean()
        torch.testing.assert_close(gaussian_kl(mean, sigma, direction), expected)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize("direction", ["posterior_prior", "prior_posterior"])
    def test_the_term_joins_the_phase_that_updates_the_encoder(self, x: Tensor, direction: str) -> None:
        variant = build_seeded(KLDLoss, weight=0.7, direction=direction)
        plain = copy.deepcopy(variant)
        assert isinstance(plain, KLDLoss)
        plain.kld_weight = 0.0
        for one in (variant, plain):
            one.use(RecordedNoise(1))
        mu, sigma = variant.encoder(x)
        kl = gaussian_kl(mu, sigma, direction)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(variant("adversary", x) - plain("adversary", x), 0.7 * kl)

    def test_its_gradient_reaches_the_encoder(self, x: Tensor) -> None:
        engine = build_engine(build_seeded(KLDLoss, weight=1e6), learning_rate=1e-2)
        variant = engine.variant
        assert isinstance(variant, KLDLoss)
        before = gaussian_kl(*variant.encoder(x)).item()
        for step in range(20):
            engine.noise.start_step(step)
            engine._begin(x)
            engine._compute_gradients("adversary")
            engine._apply_gradients("adversary")
        assert gaussian_kl(*variant.encoder(x)).item() < before / 2

    def test_the_published_head_is_not_its_default(self) -> None:
        assert KLDLoss.Options() == KLDLoss.Options(sigma="exp", weight=0.1, direction="posterior_prior")
        assert AAE.Options().sigma == "linear"

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match="differ in shape"):
            gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 1))


class TestFeature:
    def test_formula(self, x: Tensor) -> None:
        variant = build_seeded(Feature, weight=0.3)
        variant.use(noise := RecordedNoise(1))
        mu, sigma = variant.encoder(x)
        x_hat = variant.decoder(mu + sigma * noise.draws[0])
        expected = (x_hat - x).abs().mean() + 0.3 * (variant.encoder(x_hat)[0] - mu).square().mean()
        torch.testing.assert_close(variant("reconstruction", x), expected)

    def test_zero_when_the_reconstruction_is_perfect(self, x: Tensor) -> None:
        variant = build_seeded(Feature)
        variant.decode = lambda z: x  # pyright: ignore[reportAttributeAccessIssue]
        assert variant("reconstruction", x).item() == 0


class TestEqualLinear:
    def test_gamma_scales_weight_and_bias(self) -> None:
        layer = EqualLinear(48, 7)
        nn.init.normal_(layer.bias)
        x, gamma = torch.randn(5, 48), 1 / 48**0.5
        expected = torch.stack([gamma * (layer.weight @ row) + gamma * layer.bias for row in x])
        torch.testing.assert_close(layer(x), expected)

    def test_weights_are_drawn_from_the_standard_normal(self) -> None:
        torch.manual_seed(0)
        weight = EqualLinear(400, 400).weight
        assert abs(weight.mean().item()) < 0.01
        assert abs(weight.std().item() - 1) < 0.01

    def test_no_batch_norm_is_left_and_every_linear_of_e_and_g_is_equal(self) -> None:
        variant = build_seeded(EqualLinearAAE)
        assert not [m for m in variant.modules() if isinstance(m, nn.BatchNorm1d)]
        for network in (variant.encoder, variant.decoder):
            assert not [m for m in network.modules() if isinstance(m, nn.Linear)]
        assert [m for m in variant.discriminator.modules() if isinstance(m, nn.Linear)]
