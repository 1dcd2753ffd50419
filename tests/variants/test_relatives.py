"""The paper's other systems, the combination and the remedies, against formulas and limits computed here."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.config import build_config
from harness.evaluation.images import GeneratedImages
from harness.evaluation.posterior import compute_diagnostics, compute_posterior
from harness.evaluation.samplers import build_prior
from harness.seeding import GlobalNoise
from harness.train import prepare
from harness.training.context import TrainingContext
from tests.engines import build_engine
from variants import VARIANTS, build
from variants.base import Variant
from variants.combined import Combined
from variants.losses import gaussian_kl, mmd
from variants.remedies import Remedies

SHAPE, Z, B = (3, 32, 32), 10, 32


@pytest.fixture
def x() -> Tensor:
    return torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def build_seeded(name: str, **options: Any) -> Any:
    torch.manual_seed(3)
    variant = build(name, VARIANTS[name].Options(**options), SHAPE, Z)
    variant.use(TrainingContext(GlobalNoise(0, 0, 1, torch.device("cpu")), "no"))
    return variant


def rewind(variant: Variant) -> None:
    assert isinstance(variant.context, TrainingContext)
    variant.context.draws.start_step(0)


def train_steps(variant: Variant, x: Tensor, n: int = 3) -> dict[str, Tensor]:
    engine = build_engine(variant)
    for step in range(n):
        engine.step(x, step)
    return engine.variant.state_dict()


class TestVAE:
    def test_elbo_is_the_laplace_likelihood_and_the_kl(self, x: Tensor) -> None:
        vae = build_seeded("vae")
        rewind(vae)
        mu, sigma = vae.encoder(x)
        eps = vae.context.noise(B, Z)
        likelihood = (
            torch.distributions.Laplace(vae.decoder(mu + sigma * eps), 1.0).log_prob(x).flatten(1).sum(1).mean()
        )
        constant = 3072 * torch.tensor(2.0).log()
        rewind(vae)
        torch.testing.assert_close(vae("elbo", x), -likelihood - constant + gaussian_kl(mu, sigma))

    def test_beta_one_is_the_vae_to_the_bit(self, x: Tensor) -> None:
        states = [train_steps(build_seeded("vae"), x), train_steps(build_seeded("beta_vae", beta=1.0), x)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])

    def test_beta_weighs_the_kl(self, x: Tensor) -> None:
        losses = []
        for beta in (1.0, 5.0):
            variant = build_seeded("beta_vae", beta=beta)
            rewind(variant)
            losses.append(variant("elbo", x))
        mu, sigma = variant.posterior(x)
        torch.testing.assert_close(losses[1] - losses[0], 4 * gaussian_kl(mu, sigma), rtol=1e-3, atol=1e-3)


class TestGAN:
    def test_losses(self, x: Tensor) -> None:
        gan = build_seeded("gan")
        rewind(gan)
        images = gan.generator(gan.context.noise(B, Z))
        real, fake = torch.sigmoid(gan.discriminator(x)), torch.sigmoid(gan.discriminator(images))
        rewind(gan)
        torch.testing.assert_close(gan("discriminator", x), -real.log().mean() - (1 - fake).log().mean())
        rewind(gan)
        torch.testing.assert_close(gan("generator", x), -fake.log().mean())

    def test_it_has_no_posterior_and_says_so(self) -> None:
        assert not [name for name, _ in build_seeded("gan").named_children() if name == "encoder"]
        config = build_config({"preset": "demo", "variant": "gan", "max_images": 256})
        engine, data, (evaluator,) = prepare(config)
        assert compute_posterior(engine.variant, data, evaluator.reading, engine.config.seed, engine.processes) is None


class TestVAEGAN:
    def test_reconstruction_is_in_the_features_of_layer_l(self, x: Tensor) -> None:
        losses = []
        for layer in (1, 2):
            variant = build_seeded("vae_gan", layer=layer)
            rewind(variant)
            mu, sigma = variant.encoder(x)
            x_hat = variant.decoder(mu + sigma * variant.context.noise(B, Z))
            h, h_hat = x.flatten(1), x_hat.flatten(1)
            for hidden in list(variant.discriminator.hidden)[:layer]:
                h, h_hat = hidden(h), hidden(h_hat)
            rewind(variant)
            losses.append(variant("encoder", x))
            expected = gaussian_kl(mu, sigma) + (h - h_hat).square().sum(1).mean() / 2
            torch.testing.assert_close(losses[-1], expected)
        assert losses[0] != losses[1]

    def test_images_that_the_features_cannot_tell_apart_cost_nothing(self, x: Tensor) -> None:
        variant = build_seeded("vae_gan")
        first = variant.discriminator.hidden[0][0]
        nn.init.zeros_(first.weight)
        assert variant.feature_error(x, -x) == 0, "pixels do not count"

    def test_three_objectives_update_three_networks(self) -> None:
        phases = build_seeded("vae_gan").phases()
        assert [len(phase.updates) for phase in phases.values()] == [1, 1, 1]
        assert list(phases) == ["encoder", "decoder", "discriminator"]

    def test_gamma_weighs_the_decoders_reconstruction(self, x: Tensor) -> None:
        losses = []
        for gamma in (0.0, 1.0):
            variant = build_seeded("vae_gan", gamma=gamma)
            rewind(variant)
            losses.append(variant("decoder", x))
        rewind(variant)
        torch.testing.assert_close(losses[1] - losses[0], variant.feature_error(variant.generate(x)[0], x))


class TestDFCVAE:
    def test_adds_the_error_between_hidden_activations(self, x: Tensor) -> None:
        dfc, vae = build_seeded("dfc_vae", weight=0.5), build_seeded("vae")
        draws = GlobalNoise(0, 0, 1, torch.device("cpu"))
        dfc.use(TrainingContext(draws, "no", lambda images: [images[:, :1] * 3, images.mean((2, 3))]))
        rewind(dfc)
        mu, sigma = dfc.encoder(x)
        x_hat = dfc.decoder(mu + sigma * dfc.context.noise(B, Z))
        error = (3 * (x_hat - x)[:, :1]).square().flatten(1).sum(1).mean()
        error = (error + (x_hat - x).mean((2, 3)).square().sum(1).mean()) / 2
        rewind(dfc)
        rewind(vae)
        torch.testing.assert_close(dfc("elbo", x) - vae("elbo", x), 0.5 * error, rtol=1e-4, atol=1e-3)

    def test_without_a_network_it_does_not_guess(self, x: Tensor) -> None:
        with pytest.raises(RuntimeError, match="nobody has set"):
            build_seeded("dfc_vae")("elbo", x)


class TestWAE:
    def test_mmd_is_zero_in_expectation_for_equal_distributions(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([mmd(*torch.randn(2, 64, Z, generator=generator)) for _ in range(300)])
        standard_error = draws.std() / 300**0.5
        assert abs(draws.mean()) < 3 * standard_error
        assert (draws < 0).any(), "an unbiased estimate goes below zero"

    def test_mmd_is_float32s_under_autocast(self) -> None:
        z, z_prior = torch.randn(2, 64, Z, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            lower = mmd(z, z_prior)
        assert torch.equal(lower, mmd(z, z_prior))

    def test_mmd_sees_what_differs(self) -> None:
        z, z_prior = torch.randn(2, 500, Z, generator=torch.Generator().manual_seed(0))
        for other in (z + 1, z * 0.1, z * 3):
            assert mmd(other, z_prior) > 10 * mmd(z, z_prior).abs()

    def test_mmd_equals_the_double_sum(self) -> None:
        z, z_prior = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0)).double()

        def k(a: Tensor, b: Tensor) -> float:
            constants = [6 * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
            return sum(c / (c + (a - b).square().sum().item()) for c in constants)

        pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
        within = sum(k(z[i], z[j]) + k(z_prior[i], z_prior[j]) for i, j in pairs) / (12 * 11)
        between = sum(k(a, b) for a in z for b in z_prior) / 144
        assert mmd(z, z_prior).item() == pytest.approx(within - 2 * between, rel=1e-4)


class TestCombined:
    @pytest.mark.parametrize(
        ("single", "options", "combined"),
        [
            ("aae", {}, {}),
            ("latent_mapping", {"depth": 3}, {"depth": 3}),
            ("n_iter", {"n": 3}, {"n": 3}),
            (
                "kld_loss",
                {"weight": 0.2, "direction": "prior_posterior"},
                {"kld_weight": 0.2, "direction": "prior_posterior"},
            ),
            ("feature", {"weight": 0.7}, {"feature_weight": 0.7}),
            ("equal_linear", {}, {"equal_linear": True}),
        ],
    )
    def test_with_one_idea_on_it_is_the_single_variant_to_the_bit(
        self, x: Tensor, single: str, options: dict[str, Any], combined: dict[str, Any]
    ) -> None:
        first, second = (
            train_steps(build_seeded(single, **options), x),
            train_steps(build_seeded("combined", **combined), x),
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_presets_are_the_papers_next_steps(self) -> None:
        pair, four = build_config({"preset": "kld_feature"}), build_config({"preset": "all_four"})
        assert (pair.variant, four.variant) == ("combined", "combined")
        assert isinstance(pair.options, Combined.Options)
        assert isinstance(four.options, Combined.Options)
        assert (pair.options.kld_weight, pair.options.feature_weight, pair.options.sigma) == (0.1, 1.0, "exp")
        assert (four.options.depth, four.options.equal_linear) == (4, True)

    def test_all_ideas_act_at_once(self, x: Tensor) -> None:
        options = {"depth": 2, "n": 4, "kld_weight": 0.1, "feature_weight": 1.0, "equal_linear": True}
        variant = build_seeded("combined", **options)
        assert variant.phases()["discriminator"].repeats == 4
        assert len(variant.mapping) == 4
        assert not [m for m in variant.modules() if isinstance(m, nn.BatchNorm1d)]
        rewind(variant)
        with_terms = [variant(phase, x) for phase in variant.phases()]
        variant.kld_weight = variant.feature_weight = 0.0
        rewind(variant)
        without = [variant(phase, x) for phase in variant.phases()]
        assert with_terms[0] > without[0]
        assert with_terms[2] > without[2]


def train_noise_shares(options: dict[str, Any]) -> tuple[float, float]:
    """The noise share of the AAE with these options, before and after a short training on the digits."""
    fields = {"preset": "demo", "batch_size": 64, "epochs": 4, "max_images": 1024, "options": options}
    config = build_config(fields)
    engine, data, (evaluator,) = prepare(config)
    shares: list[Any] = []
    for epoch in range(config.epochs + 1):
        if epoch in (0, config.epochs):
            posterior = compute_posterior(engine.variant, data, evaluator.reading, engine.config.seed, engine.processes)
            assert posterior is not None
            shares.append(compute_diagnostics(posterior.mu, posterior.sigma)["posterior/noise_share"])
        for step, indices in enumerate(data.epoch(0, epoch, config.batch_size, 0, 1)):
            engine.step(data.batch(indices, engine.processes.device), 16 * epoch + step)
    return shares[0], shares[1]


@pytest.fixture(scope="module")
def plain() -> tuple[float, float]:
    return train_noise_shares({})


class TestRemedies:
    def test_penalty_is_the_distance_from_the_priors_variance_and_moves_sigma_alone(self) -> None:
        mu = torch.randn(200, Z).requires_grad_()
        sigma = torch.rand(200, Z).requires_grad_()
        loss = Remedies(2.0, 0.0, 0.0, "posterior_prior")(mu, sigma)
        expected = 2 * ((sigma**2).mean(0) + mu.var(0, correction=0) - 1).square().sum()
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert mu.grad is None
        assert sigma.grad is not None

    def test_log_variance_penalty_is_the_l1_norm_of_log_variances_and_moves_sigma_alone(self, x: Tensor) -> None:
        mu = torch.randn(200, Z).requires_grad_()
        log_variance = torch.randn(200, Z).requires_grad_()
        sigma = torch.exp(log_variance / 2) * torch.randn(200, Z).sign()
        loss = Remedies(0.0, 0.3, 0.0, "posterior_prior")(mu, sigma)
        torch.testing.assert_close(loss, 0.3 * torch.nn.functional.l1_loss(log_variance, torch.zeros(200, Z)) * Z)
        loss.backward()
        assert mu.grad is None
        assert log_variance.grad is not None
        torch.testing.assert_close(log_variance.grad, 0.3 / 200 * log_variance.detach().sign())
        penalised, free = (build_seeded("aae", sigma="exp", log_variance_penalty=weight) for weight in (0.5, 0.0))
        rewind(penalised)
        rewind(free)
        expected = free("adversary", x) + 0.5 * free.posterior(x)[1].square().log().abs().sum(1).mean()
        torch.testing.assert_close(penalised("adversary", x), expected)

    @pytest.mark.parametrize("head", ["linear", "exp"])
    def test_floor_bounds_sigma_from_below(self, x: Tensor, head: str) -> None:
        floored, free = build_seeded("aae", sigma=head, sigma_floor=0.4), build_seeded("aae", sigma=head)
        _, sigma = floored.posterior(x)
        assert sigma.min() >= 0.4
        torch.testing.assert_close(sigma.square(), free.posterior(x)[1].square() + 0.16)

    @pytest.mark.parametrize("direction", ["posterior_prior", "prior_posterior"])
    def test_the_kl_on_the_aae_is_kld_loss(self, x: Tensor, direction: str) -> None:
        remedied = build_seeded("aae", sigma="exp", kl_weight=0.1, kl_direction=direction)
        first, second = train_steps(remedied, x), train_steps(build_seeded("kld_loss", direction=direction), x)
        assert all(torch.equal(first[key], second[key]) for key in first)

    @pytest.mark.parametrize(
        "options",
        [
            {"sigma": "exp"},
            {"sigma_floor": 0.5},
            {"sigma_penalty": 1.0},
            {"sigma": "exp", "log_variance_penalty": 0.1},
            {"sigma": "exp", "kl_weight": 0.1, "kl_direction": "posterior_prior"},
            {"sigma": "exp", "kl_weight": 0.1, "kl_direction": "prior_posterior"},
        ],
    )
    def test_each_keeps_noise_where_the_plain_aae_loses_it(self, plain: tuple[float, float], options: Any) -> None:
        assert plain[1] < 0.5 * plain[0], "the plain AAE's noise share falls"
        assert train_noise_shares(options)[1] > 1.3 * plain[1]


@pytest.mark.parametrize("name", VARIANTS)
def test_two_epochs_on_the_digits_improve_fid(name: str) -> None:
    config = build_config({"dataset": "digits", "extractor": "domain", "variant": name, "batch_size": 32, "epochs": 2})
    engine, data, (evaluator,) = prepare(config)
    images, step = GeneratedImages(engine.variant, build_prior(Z), evaluator.reading, 0, engine.processes.device), 0
    before: Any = evaluator.score(images)["fid"]
    for epoch in range(config.epochs):
        for indices in data.epoch(0, epoch, config.batch_size, 0, 1):
            engine.step(data.batch(indices, engine.processes.device), step)
            step += 1
    after: Any = evaluator.score(images)["fid"]
    assert after < before
