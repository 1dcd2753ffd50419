"""Codes from the prior and from fits of the aggregated posterior."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from aaebench import app
from harness.commands import call
from harness.evaluation.samplers import build_prior, fit_codes
from harness.seeding import build_generator
from tests.harness.test_train import SHORT, evaluated, only_folder, run


def generator() -> torch.Generator:
    return build_generator(0, "evaluation", 0)


@pytest.fixture(scope="module")
def clusters() -> tuple[Tensor, Tensor]:
    """mu of two clusters far apart, sigma small: an aggregated posterior that no single Gaussian fits."""
    g = torch.Generator().manual_seed(0)
    mu = torch.randn(4000, 3, dtype=torch.float64, generator=g) * 0.3
    mu[::2, 0] += 6
    return mu, torch.full_like(mu, 0.1)


def test_prior_codes_are_standard_normal_draws() -> None:
    assert torch.equal(build_prior(4).draw(50, generator()), torch.randn(50, 4, generator=generator()))


def test_a_gaussian_fit_has_the_aggregated_posteriors_moments(clusters: tuple[Tensor, Tensor]) -> None:
    mu, sigma = clusters
    z = fit_codes("gaussian", mu, sigma, seed=0).draw(20000, generator()).double()
    torch.testing.assert_close(z.mean(0), mu.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), torch.cov(mu.T) + 0.01 * torch.eye(3).double(), atol=0.2, rtol=0)
    assert ((z[:, 0] > 2) & (z[:, 0] < 4)).double().mean() > 0.1, "it fills the gap between the clusters"


def test_a_mixture_leaves_the_gap_empty(clusters: tuple[Tensor, Tensor]) -> None:
    z = fit_codes("gmm", *clusters, seed=0).draw(20000, generator())
    assert ((z[:, 0] > 2) & (z[:, 0] < 4)).float().mean() < 0.01
    assert abs((z[:, 0] > 3).float().mean() - 0.5) < 0.02


@pytest.mark.parametrize("sampler", ["gaussian", "gmm"])
def test_fewer_codes_than_dimensions_have_a_fit(sampler: str) -> None:
    mu = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    codes = fit_codes(sampler, mu, torch.zeros_like(mu), seed=0)  # pyright: ignore
    z = codes.draw(5000, generator()).double()
    assert z.isfinite().all()
    expected = torch.cov(mu.T, correction=int(sampler == "gaussian"))
    torch.testing.assert_close(torch.cov(z.T), expected, atol=0.2, rtol=0.1)


@pytest.mark.parametrize("sampler", ["prior", "gaussian", "gmm"])
def test_codes_follow_from_the_seed(clusters: tuple[Tensor, Tensor], sampler: str) -> None:
    first, second = (fit_codes(sampler, *clusters, seed=1).draw(10, generator()) for _ in range(2))  # pyright: ignore
    assert torch.equal(first, second)


def test_each_sampler_is_scored_and_becomes_a_row(tmp_path: Path) -> None:
    assert run(tmp_path / "runs", *SHORT, "--epochs", "2", "--set", "samplers=[prior, gaussian, gmm]") == 0
    assert run(tmp_path / "plain", *SHORT, "--epochs", "2") == 0
    first, second = (evaluated(only_folder(tmp_path / name), 2) for name in ("runs", "plain"))
    assert first["eval/fid"] == second["eval/fid"], "other samplers change no number of the prior's"
    command = ["collect", str(tmp_path / "runs"), "--out", str(tmp_path / "tables")]
    assert call(lambda: app(command, result_action="return_value")) == 0
    runs = pd.read_csv(tmp_path / "tables" / "runs.csv")
    last = runs[runs["epoch"] == 2].set_index("sampler")["fid"]
    assert list(last.index) == ["prior", "gaussian", "gmm", "reconstruction"]
    assert last.nunique() == 4


def test_repeated_evaluations_differ_in_their_codes_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "runs", *SHORT, "--epochs", "1", "--set", "sampling_seeds=3") == 0
    assert run(tmp_path / "plain", *SHORT, "--epochs", "1") == 0
    (evaluation,) = only_folder(tmp_path / "runs").find_evaluations()
    scored = [line for line in evaluation.read() if line["epoch"] == 1 and line.get("sampler") == "prior"]
    fids = [line["eval/fid"] for line in scored]
    assert fids[0] == evaluated(only_folder(tmp_path / "plain"), 1)["eval/fid"]
    assert len(set(fids)) == 3
    assert max(fids) < 1.2 * min(fids)
    assert [line["sampling_seed"] for line in scored] == [0, 1, 2]
