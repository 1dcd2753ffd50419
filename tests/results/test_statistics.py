"""Statistics of a handful of seeds, against scipy, statsmodels and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from harness.errors import InputError
from results.compute.statistics import (
    ALPHA,
    adjust_holm,
    adjust_partial,
    compute_detectable,
    compute_effect_size,
    compute_half_width,
    compute_margin,
    compute_p,
    compute_p_equivalent,
    compute_power,
    compute_seeds_needed,
    from_scale,
    require_margin,
    split_variance,
    to_scale,
)

FIRST = np.array([7.1, 6.4, 8.0, 7.7, 6.9])
SECOND = np.array([6.2, 6.6, 6.9, 7.0, 6.1])


def test_p_is_that_of_scipys_paired_t_test() -> None:
    expected = stats.ttest_rel(FIRST, SECOND)
    difference = FIRST - SECOND
    p = compute_p(difference.mean(), difference.std(ddof=1) / np.sqrt(5), np.array(4))
    assert p == pytest.approx(expected.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_interval_is_scipys() -> None:
    low, high = stats.t.interval(0.95, 4, FIRST.mean(), FIRST.std(ddof=1) / np.sqrt(5))
    assert compute_half_width(FIRST.std(ddof=1), np.array(5)) == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_no_p_and_no_effect_size() -> None:
    difference, no_spread, df = np.array([3.0]), np.array([np.nan]), np.array([0.0])
    assert np.isnan(compute_half_width(no_spread, np.array([1]))).all()
    assert np.isnan(compute_p(difference, no_spread, df)).all()
    assert np.isnan(compute_effect_size(difference, no_spread, df)).all()
    needed = compute_seeds_needed(difference, no_spread, df, np.array([2.0]), np.array([ALPHA]))
    assert np.isnan(needed).all()


def test_a_difference_without_spread_is_no_evidence() -> None:
    """Two copies of one run and a third: p was 0 here once."""
    assert np.isnan(compute_p(np.array([0.0, 2.0]), np.array([0.0, np.nan]), np.array([2.0, 2.0]))).all()


def test_the_interval_covers_the_truth_in_95_of_100_cases_with_three_seeds() -> None:
    values = np.random.default_rng(0).normal(5, 2, (20_000, 3))
    half = compute_half_width(values.std(axis=1, ddof=1), np.full(20_000, 3))
    assert np.mean(np.abs(values.mean(axis=1) - 5) < half) == pytest.approx(0.95, abs=0.006)


class TestHolm:
    def test_it_keeps_the_chance_of_any_false_finding_below_5_percent(self) -> None:
        differences = np.random.default_rng(1).normal(0, 1, (2_000, 5, 3))
        errors = differences.std(axis=2, ddof=1) / np.sqrt(3)
        p = compute_p(differences.mean(axis=2), errors, np.array(2.0))
        assert (adjust_holm(p) < ALPHA).any(axis=1).mean() < 0.065

    def test_its_own_example(self) -> None:
        assert adjust_holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @pytest.mark.parametrize("size", [1, 2, 5, 12])
    def test_it_is_statsmodels(self, size: int) -> None:
        families = np.random.default_rng(size).uniform(0, 0.2, (10, size))
        expected = np.array([multipletests(family, method="holm")[1] for family in families], float)
        np.testing.assert_allclose(adjust_holm(families), expected)

    def test_what_was_not_tested_does_not_count_in_the_family(self) -> None:
        adjusted = adjust_holm(np.array([0.02, np.nan, 0.03]))
        assert adjusted[[0, 2]].tolist() == pytest.approx([0.04, 0.04])
        assert np.isnan(adjusted[1])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_it_keeps_the_order_and_never_lowers_a_p(self, values: list[float]) -> None:
        p = np.array(values)
        adjusted = adjust_holm(p)
        assert (adjusted >= p).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


class TestPartialConjunction:
    def test_all_needed_is_the_largest_p_and_one_needed_bonferroni(self) -> None:
        p = [0.01, 0.2, 0.04]
        assert adjust_partial(p, 3) == 0.2
        assert adjust_partial(p, 1) == pytest.approx(0.03)
        assert adjust_partial(p, 2) == pytest.approx(0.08)

    def test_what_was_not_tested_speaks_for_nothing(self) -> None:
        assert adjust_partial([0.001, np.nan], 2) == 1

    def test_more_than_there_are_cannot_hold(self) -> None:
        assert adjust_partial([0.001], 2) == 1
        assert adjust_partial([], 0) == 1

    def test_it_holds_5_percent_where_one_fewer_than_needed_is_true(self) -> None:
        random = np.random.default_rng(3)
        p = np.concatenate([np.zeros((4_000, 3)), random.uniform(size=(4_000, 3))], axis=1)
        assert np.mean([adjust_partial(family, 4) < ALPHA for family in p]) < 0.06


class TestPower:
    def test_it_is_what_simulation_finds(self) -> None:
        differences = np.random.default_rng(2).normal(1.2, 1, (20_000, 6))
        p = compute_p(differences.mean(axis=1), differences.std(axis=1, ddof=1) / np.sqrt(6), np.array(5.0))
        power = compute_power(np.array(1.2 * np.sqrt(6)), np.array(5.0), np.array(ALPHA))
        assert power == pytest.approx(np.mean(p < ALPHA), abs=0.01)

    @pytest.mark.parametrize("n", [3, 6, 20])
    def test_it_is_statsmodels(self, n: int) -> None:
        expected = TTestPower().power(0.9, n, ALPHA, alternative="two-sided")
        power = compute_power(np.array(0.9 * np.sqrt(n)), np.array(n - 1.0), np.array(ALPHA))
        assert power == pytest.approx(expected, abs=2e-3), "but for the wrong direction"

    def test_as_many_seeds_are_needed_as_give_it(self) -> None:
        difference = np.array([1.0, 5.0, 0.001, 80.0])
        needed = compute_seeds_needed(difference, *(np.asarray(value) for value in (1.0, 0.0, 1.0, ALPHA)))
        for n, enough in ((needed[0], True), (needed[0] - 1, False)):
            power = compute_power(np.sqrt(n), n - 1, np.asarray(ALPHA))
            assert (power >= 0.8) == enough
        assert needed[1] == 3
        assert needed[2] == np.inf, "more than 1000"
        assert needed[3] == 2

    def test_borrowed_degrees_of_freedom_save_seeds(self) -> None:
        def count(prior_df: float) -> float:
            numbers = (1.0, 0.2, prior_df, 1.0, 0.01)
            return float(compute_seeds_needed(*(np.asarray(value) for value in numbers)))

        assert count(6.0) < count(0.0)

    def test_without_a_spread_nothing_is_known_of_seeds(self) -> None:
        numbers = (1.0, np.nan, 0.0, 1.0, ALPHA)
        assert np.isnan(compute_seeds_needed(*(np.asarray(value) for value in numbers)))

    def test_what_is_detectable_takes_that_many_seeds(self) -> None:
        detectable = compute_detectable(*(np.asarray(value) for value in (0.02, 4.0, 5.0, 0.01)))
        needed = compute_seeds_needed(*(np.asarray(value) for value in (detectable * 1.001, 0.02, 4.0, 1.0, 0.01)))
        assert needed == 5


class TestScales:
    @pytest.mark.parametrize("scale", ["log", "logit", "linear"])
    def test_there_and_back(self, scale: str) -> None:
        values = np.array([0.02, 0.5, 0.93])
        np.testing.assert_allclose(from_scale(to_scale(values, scale), scale), values)  # pyright: ignore[reportArgumentType]

    def test_a_share_at_its_bound_counts_as_half_an_image_away(self) -> None:
        at, beside = to_scale(np.array([1.0, 1 - 0.5 / 200]), "logit", 200)
        assert np.isfinite(at)
        assert at == beside

    def test_a_negative_number_has_no_logarithm(self) -> None:
        assert np.isnan(to_scale(np.array([-0.001, 0.0]), "log")).all()

    def test_a_margin_of_10_percent_is_that_on_every_scale(self) -> None:
        assert compute_margin(np.array(6.0), "log", 0.1) == pytest.approx(np.log(1.1))
        assert compute_margin(np.array(-4.0), "linear", 0.1) == pytest.approx(0.4)
        inside = from_scale(to_scale(np.array(0.4), "logit") + compute_margin(np.array(0.4), "logit", 0.1), "logit")
        assert inside == pytest.approx(0.44, abs=0.002)

    def test_near_the_bound_of_a_share_the_margin_is_downward(self) -> None:
        assert compute_margin(np.array(0.95), "logit", 0.1) == pytest.approx(
            to_scale(np.array(0.95), "logit") - to_scale(np.array(0.855), "logit")
        )

    @pytest.mark.parametrize("margin", [0.0, -0.1, float("nan")])
    def test_no_margin_is_refused(self, margin: float) -> None:
        with pytest.raises(InputError, match="--margin"):
            require_margin(margin)


def test_equivalence_takes_both_one_sided_tests() -> None:
    error, df, margin = np.array(0.02), np.array(8.0), np.array(0.1)
    assert compute_p_equivalent(np.array(0.0), error, df, margin) < 0.01
    assert compute_p_equivalent(np.array(0.09), error, df, margin) > 0.05
    assert compute_p_equivalent(np.array(0.1), error, df, margin) == pytest.approx(0.5)
    assert compute_p_equivalent(np.array(-0.1), error, df, margin) == pytest.approx(0.5)


def test_hedges_g_shrinks_cohens_d() -> None:
    assert compute_effect_size(np.array(3.0), np.array(2.0), np.array(4.0)) == pytest.approx(1.5 * (1 - 3 / 15))
    assert np.isnan(compute_effect_size(np.array(3.0), np.array(2.0), np.array(1.0)))


def test_the_variance_of_sampling_is_told_from_that_of_training() -> None:
    random = np.random.default_rng(3)
    runs = np.repeat(np.arange(400), 4)
    values = random.normal(0, 2, 400)[runs] + random.normal(0, 0.5, len(runs))
    training, sampling = split_variance(values, runs)
    assert training == pytest.approx(2, rel=0.1)
    assert sampling == pytest.approx(0.5, rel=0.05)


def test_without_repeated_evaluations_there_is_nothing_to_split() -> None:
    assert np.isnan(split_variance(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2]))).all()
