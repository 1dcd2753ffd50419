"""The statistics of a handful of seeds, against scipy's own tests and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from results.compute.statistics import (
    ALPHA,
    adjust_holm,
    compute_effect_size,
    compute_half_width,
    compute_p,
    compute_power,
    compute_seeds_needed,
    split_variance,
)

FIRST = np.array([7.1, 6.4, 8.0, 7.7, 6.9])
SECOND = np.array([6.2, 6.6, 6.9, 7.0, 6.1])


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([values.mean()]), np.array([values.std(ddof=1)]), np.array([len(values)])


def test_p_is_that_of_scipys_paired_t_test() -> None:
    expected = stats.ttest_rel(FIRST, SECOND)
    assert compute_p(*moments(FIRST - SECOND))[0] == pytest.approx(expected.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_the_interval_is_scipys() -> None:
    low, high = stats.t.interval(0.95, 4, FIRST.mean(), FIRST.std(ddof=1) / np.sqrt(5))
    assert compute_half_width(FIRST.std(ddof=1), np.array(5)) == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval_no_p_and_no_effect_size() -> None:
    one = (np.array([3.0]), np.array([np.nan]), np.array([1]))
    assert np.isnan(compute_half_width(one[1], one[2])).all()
    assert np.isnan(compute_p(*one)).all()
    assert np.isnan(compute_effect_size(*one)).all()
    assert np.isnan(compute_seeds_needed(*one, np.array(ALPHA))).all()


def test_differences_without_spread() -> None:
    p = compute_p(np.array([0.0, 2.0]), np.array([0.0, 0.0]), np.array([3, 3]))
    assert p.tolist() == [1.0, 0.0]


def test_the_interval_covers_the_truth_in_95_of_100_cases_with_three_seeds() -> None:
    values = np.random.default_rng(0).normal(5, 2, (20_000, 3))
    half = compute_half_width(values.std(axis=1, ddof=1), np.full(20_000, 3))
    assert np.mean(np.abs(values.mean(axis=1) - 5) < half) == pytest.approx(0.95, abs=0.006)


def test_holm_keeps_the_chance_of_any_false_finding_below_5_percent() -> None:
    differences = np.random.default_rng(1).normal(0, 1, (2_000, 5, 3))
    false = 0
    for family in differences:
        p = compute_p(family.mean(axis=1), family.std(axis=1, ddof=1), np.full(5, 3))
        false += (adjust_holm(p) < ALPHA).any()
    assert false / 2_000 < 0.065


def test_holms_own_example() -> None:
    assert adjust_holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_was_not_tested_does_not_count_in_the_family() -> None:
    adjusted = adjust_holm(np.array([0.02, np.nan, 0.03]))
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.04, 0.04])
    assert np.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusting_keeps_the_order_and_never_lowers_a_p(values: list[float]) -> None:
    p = np.array(values)
    adjusted = adjust_holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_power_is_what_simulation_finds() -> None:
    differences = np.random.default_rng(2).normal(1.2, 1, (20_000, 6))
    p = compute_p(differences.mean(axis=1), differences.std(axis=1, ddof=1), np.full(20_000, 6))
    assert compute_power(np.array(1.2), np.array(6.0), np.array(ALPHA)) == pytest.approx(np.mean(p < ALPHA), abs=0.01)


def test_as_many_seeds_are_needed_as_give_the_power() -> None:
    mean, std, n = np.array([1.0, 5.0, 0.001, 80.0]), np.array([1.0, 1.0, 1.0, 1.0]), np.array([3, 3, 3, 3])
    needed = compute_seeds_needed(mean, std, n, np.array(ALPHA))
    assert compute_power(np.array(1.0), needed[0], np.array(ALPHA)) >= 0.8
    assert compute_power(np.array(1.0), needed[0] - 1, np.array(ALPHA)) < 0.8
    assert needed[1] == 3
    assert needed[2] == np.inf, "more than 1000"
    assert needed[3] == 2


def test_hedges_g_shrinks_cohens_d() -> None:
    mean, std, n = moments(FIRST - SECOND)
    assert compute_effect_size(mean, std, n)[0] == pytest.approx(mean[0] / std[0] * (1 - 3 / 15))


def test_the_variance_of_sampling_is_told_from_that_of_training() -> None:
    random = np.random.default_rng(3)
    runs = np.repeat(np.arange(400), 4)
    values = random.normal(0, 2, 400)[runs] + random.normal(0, 0.5, len(runs))
    training, sampling = split_variance(values, runs)
    assert training == pytest.approx(2, rel=0.1)
    assert sampling == pytest.approx(0.5, rel=0.05)


def test_without_repeated_evaluations_there_is_nothing_to_split() -> None:
    assert np.isnan(split_variance(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2]))).all()
