"""Codes that are the factors are disentangled, codes that mix them are not; against scikit-learn, scipy and loops."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import entropy, ortho_group
from sklearn.datasets import load_digits
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from harness.evaluation.mechanisms.disentanglement import (
    compute_importances,
    dci_disentanglement,
    factorvae_score,
    mutual_information_gap,
    probe_accuracy,
    total_correlation,
    varying,
)

FACTORS = torch.tensor([*product(range(3), range(4), range(6), range(5))]).repeat(5, 1)  # (1800, 4)
N, K = FACTORS.shape


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standardised() -> Tensor:
    factors = FACTORS.double()
    return (factors - factors.mean(0)) / factors.std(0)


SEPARATE = torch.cat([standardised() + 0.01 * draw(N, K), draw(N, 2, seed=1)], 1)
MIXED = SEPARATE @ torch.from_numpy(ortho_group.rvs(K + 2, random_state=0))
NOISE = draw(N, K + 2, seed=2)


class TestKnownCases:
    def test_codes_that_are_the_factors_are_disentangled(self) -> None:
        assert mutual_information_gap(SEPARATE, FACTORS) > 0.95
        assert dci_disentanglement(SEPARATE, FACTORS, 0) > 0.95
        assert factorvae_score(SEPARATE, FACTORS, rng()) == 1

    def test_a_rotation_entangles_them(self) -> None:
        assert mutual_information_gap(MIXED, FACTORS) < 0.2
        assert dci_disentanglement(MIXED, FACTORS, 0) < 0.4
        assert factorvae_score(MIXED, FACTORS, rng()) < 0.99

    def test_noise_knows_no_factor(self) -> None:
        assert mutual_information_gap(NOISE, FACTORS) < 0.02
        assert dci_disentanglement(NOISE, FACTORS, 0) < 0.05
        assert factorvae_score(NOISE, FACTORS, rng()) == pytest.approx(1 / K, abs=0.05)

    def test_order_sign_and_scale_of_the_dimensions_do_not_count(self) -> None:
        changed = SEPARATE[:, [3, 5, 0, 2, 4, 1]] * torch.tensor([-1.0, 2.0, -0.1, 10.0, 3.0, 0.5])
        assert mutual_information_gap(changed, FACTORS) == pytest.approx(
            mutual_information_gap(SEPARATE, FACTORS), abs=0.01
        )
        assert factorvae_score(changed, FACTORS, rng()) == 1
        assert dci_disentanglement(changed, FACTORS, 0) == pytest.approx(
            dci_disentanglement(SEPARATE, FACTORS, 0), abs=0.01
        )

    def test_a_factor_in_two_dimensions_has_no_gap_and_still_its_own_dimensions(self) -> None:
        doubled = torch.cat([standardised(), standardised()], 1)
        assert mutual_information_gap(doubled, FACTORS) == pytest.approx(0, abs=1e-12)
        assert dci_disentanglement(doubled, FACTORS, 0) > 0.95
        assert factorvae_score(doubled, FACTORS, rng()) == 1

    def test_two_factors_in_one_dimension_are_half_of_a_dimension_each(self) -> None:
        numbers = torch.tensor([*product(range(2), range(2))]).repeat(100, 1)
        together = (2 * numbers[:, :1] + numbers[:, 1:]).double()
        assert dci_disentanglement(together, numbers, 0) == pytest.approx(0, abs=0.05)

    def test_codes_that_never_vary_score_nothing(self) -> None:
        constant = torch.zeros(N, 3, dtype=torch.float64)
        assert mutual_information_gap(constant, FACTORS) == 0
        assert dci_disentanglement(constant, FACTORS, 0) == 0
        assert factorvae_score(constant, FACTORS, rng()) == 0

    def test_one_dimension_has_no_second_one(self) -> None:
        assert mutual_information_gap(SEPARATE[:, :1], FACTORS[:, :1]) == pytest.approx(1)
        assert 0 < factorvae_score(SEPARATE[:, :1], FACTORS, rng()) < 0.5

    def test_factors_that_never_vary_are_not_asked_about(self) -> None:
        assert torch.equal(varying(torch.cat([FACTORS, torch.full((N, 1), 3)], 1)), FACTORS)


class TestAgainstIndependentImplementations:
    codes = 0.7 * MIXED + 0.5 * SEPARATE

    def test_mig_against_scikit_learn(self) -> None:
        gaps = []
        for v in FACTORS.T.numpy():
            information = []
            for column in self.codes.T.numpy():
                edges = np.histogram(column, 20)[1]
                information.append(mutual_info_score(np.digitize(column, edges[:-1]), v))
            second, first = sorted(information)[-2:]
            gaps.append((first - second) / mutual_info_score(v, v))
        assert mutual_information_gap(self.codes, FACTORS) == pytest.approx(np.mean(gaps), rel=1e-9)

    def test_dci_against_scipys_entropy(self) -> None:
        importances = compute_importances(self.codes, FACTORS, 3)
        assert importances.sum(0) == pytest.approx(1)
        weights = importances.sum(1) / importances.sum()
        expected = sum(
            rho * (1 - entropy(row, base=K)) for rho, row in zip(weights, importances, strict=True) if row.sum() > 0
        )
        assert dci_disentanglement(self.codes, FACTORS, 3) == pytest.approx(expected)

    def test_factorvae_against_a_loop(self) -> None:
        random = np.random.default_rng(0)
        codes, factors = self.codes.numpy(), FACTORS.numpy()
        scaled = codes / codes.std(0, ddof=1)
        votes = np.zeros((codes.shape[1], K), int)

        def vote() -> tuple[int, int]:
            factor = random.integers(K)
            value = factors[random.integers(N), factor]
            rows = random.choice(np.flatnonzero(factors[:, factor] == value), 64)
            return int(scaled[rows].var(0, ddof=1).argmin()), int(factor)

        for dimension, factor in (vote() for _ in range(4000)):
            votes[dimension, factor] += 1
        accuracy = np.mean([votes[dimension].argmax() == factor for dimension, factor in (vote() for _ in range(4000))])
        assert 0.3 < accuracy < 0.98, "a case that tells something"
        assert factorvae_score(self.codes, FACTORS, rng()) == pytest.approx(accuracy, abs=0.03)

    def test_total_correlation_against_torch_distributions(self) -> None:
        factor = draw(5, 5)
        covariance = factor @ factor.T + 0.1 * torch.eye(5, dtype=torch.float64)
        joint = MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance)
        marginals = Independent(Normal(joint.loc, covariance.diagonal().sqrt()), 1)
        product_ = MultivariateNormal(joint.loc, covariance.diagonal().diag())
        assert torch.allclose(marginals.log_prob(factor), product_.log_prob(factor))
        assert total_correlation(covariance) == pytest.approx(kl_divergence(joint, product_).item())


class TestTotalCorrelation:
    def test_independent_dimensions_have_none_whatever_their_scale(self) -> None:
        assert total_correlation(torch.diag(torch.tensor([4.0, 1e-6, 9.0], dtype=torch.float64))) == pytest.approx(0)

    def test_a_correlation_of_two(self) -> None:
        covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
        assert total_correlation(covariance) == pytest.approx(-np.log(1 - 0.36) / 2)

    def test_dimensions_that_never_vary_depend_on_nothing_and_equal_ones_stay_finite(self) -> None:
        alone = torch.zeros(3, 3, dtype=torch.float64)
        alone[0, 0] = 2.0
        assert total_correlation(alone) == pytest.approx(0, abs=1e-12)
        assert 10 < total_correlation(torch.ones(2, 2, dtype=torch.float64)) < 20


class TestProbe:
    def test_a_label_that_is_linear_in_the_codes_is_read_and_one_that_is_not_is_guessed(self) -> None:
        labels = (SEPARATE[:, 0] + SEPARATE[:, 1] > 0).long()
        assert probe_accuracy(1000 * SEPARATE + 7, labels, 0) > 0.98, "whatever the codes' scale"
        assert probe_accuracy(NOISE, labels, 0) == pytest.approx(0.5, abs=0.1)

    def test_scikit_learns_digits(self) -> None:
        pixels, labels = (torch.from_numpy(np.asarray(array)) for array in load_digits(return_X_y=True))
        assert probe_accuracy(pixels, labels, 0) > 0.93

    def test_a_single_class_is_always_right(self) -> None:
        assert probe_accuracy(NOISE, torch.zeros(N, dtype=torch.int64), 0) == 1
