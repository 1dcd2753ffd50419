"""The diagnostics tell apart what can happen to a posterior."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from harness.config import build_config
from harness.evaluation.posterior import classify_collapse, compute_diagnostics, compute_posterior
from harness.train import prepare

N, Z = 5000, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_deterministic_encoder_is_variance_collapse() -> None:
    values = compute_diagnostics(draw(N, Z), 0.01 * draw(N, Z, seed=1))
    assert values["posterior/collapse"] == "variance"
    assert values["posterior/noise_share"] == pytest.approx(1e-4, rel=0.1)
    assert values["posterior/active_units"] == Z
    assert values["posterior/prior_kl"] == pytest.approx(0, abs=0.01), (
        "the aggregated posterior looks fine all the same"
    )


def test_codes_that_say_nothing_are_posterior_collapse() -> None:
    values = compute_diagnostics(torch.zeros(N, Z, dtype=torch.float64), torch.ones(N, Z, dtype=torch.float64))
    assert values["posterior/collapse"] == "posterior"
    assert values["posterior/noise_share"] == 1
    assert values["posterior/active_units"] == 0
    assert values["posterior/kl"] == pytest.approx(0)
    assert values["posterior/prior_kl"] == pytest.approx(0)


def test_a_healthy_posterior_is_neither() -> None:
    values = compute_diagnostics(0.8 * draw(N, Z), torch.full((N, Z), 0.6, dtype=torch.float64))
    assert values["posterior/collapse"] == "none"
    assert values["posterior/noise_share"] == pytest.approx(0.36, abs=0.02)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.049, "variance"), (0.051, "none"), (0.949, "none"), (0.951, "posterior")]
)
def test_the_rule(share: float, verdict: str) -> None:
    assert classify_collapse(share) == verdict


def test_moments_and_kl_against_torch_distributions() -> None:
    mu, sigma = 0.7 * draw(N, Z) + 0.3, 0.5 + 0.2 * draw(N, Z, seed=2)
    values = compute_diagnostics(mu, sigma)
    assert values["posterior/sigma_mean"] == pytest.approx(sigma.abs().mean().item())
    assert values["posterior/sigma_std"] == pytest.approx(sigma.abs().std(correction=0).item())
    assert values["posterior/mu_mean_per_dim"] == pytest.approx(mu.mean(0).tolist())
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(Normal(mu, sigma.abs()), prior).sum(1).mean().item()
    assert values["posterior/kl"] == pytest.approx(expected)
    fit = MultivariateNormal(mu.mean(0), torch.cov(mu.T, correction=0) + sigma.square().mean(0).diag())
    standard = MultivariateNormal(torch.zeros(Z, dtype=torch.float64), torch.eye(Z, dtype=torch.float64))
    assert values["posterior/prior_kl"] == pytest.approx(kl_divergence(fit, standard).item())


def test_the_sign_of_sigma_does_not_count() -> None:
    mu, sigma = draw(N, Z), draw(N, Z, seed=1)
    assert compute_diagnostics(mu, sigma) == compute_diagnostics(mu, -sigma)


def test_histograms_count_every_code() -> None:
    mu, sigma = 100 * draw(N, Z), draw(N, Z, seed=1)
    for name, values in (("mu", mu), ("sigma", sigma)):
        histogram = compute_diagnostics(mu, sigma)[f"posterior/{name}_histogram"]
        assert isinstance(histogram, dict)
        assert sum(histogram["counts"]) == values.numel()
        assert len(histogram["edges"]) == len(histogram["counts"]) + 1


def test_a_sigma_of_exactly_zero_keeps_the_kl_finite() -> None:
    values = compute_diagnostics(draw(N, Z), torch.zeros(N, Z, dtype=torch.float64))
    assert values["posterior/collapse"] == "variance"
    assert 100 < values["posterior/kl"] < 2000  # pyright: ignore[reportOperatorIssue]


def test_one_latent_dimension() -> None:
    assert compute_diagnostics(draw(N, 1), draw(N, 1, seed=1))["posterior/active_units"] == 1


def test_the_encoder_is_read_in_the_order_of_the_data() -> None:
    config = build_config({"dataset": "digits", "extractor": "domain", "max_images": 300, "batch_size": 64})
    engine, data, (evaluator,) = prepare(config)
    result = compute_posterior(engine.variant, data, evaluator.reading, engine.config.seed, engine.processes)
    assert result is not None
    mu, sigma = result.mu, result.sigma
    engine.variant.train()
    with torch.no_grad():
        expected = engine.variant.encoder(data.batch(torch.arange(300), engine.processes.device))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(mu, expected[0].double())
    torch.testing.assert_close(sigma, expected[1].double())


def train_noise_share(variant: str, sigma: str) -> float:
    config = build_config(
        {
            "preset": "demo",
            "variant": variant,
            "options.sigma": sigma,
            "batch_size": 64,
            "epochs": 8,
            "max_images": 1024,
        }
    )
    engine, data, (evaluator,) = prepare(config)
    step = 0
    for epoch in range(config.epochs):
        for indices in data.epoch(0, epoch, config.batch_size, 0, 1):
            engine.step(data.batch(indices, engine.processes.device), step)
            step += 1
    result = compute_posterior(engine.variant, data, evaluator.reading, engine.config.seed, engine.processes)
    assert result is not None
    share = compute_diagnostics(result.mu, result.sigma)["posterior/noise_share"]
    assert isinstance(share, float)
    return share


def test_kld_loss_keeps_more_noise_than_the_aae_with_the_same_sigma_head() -> None:
    assert train_noise_share("kld_loss", "exp") > train_noise_share("aae", "exp") + 0.1
