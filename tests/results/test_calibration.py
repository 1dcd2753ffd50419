"""A small calibration with fixed seeds: what `make calibrate` shows in full, within exact binomial bounds."""

import numpy as np
import pytest
from scipy import stats

from tests.calibration.measure import (
    collapse_bound,
    judge_differences,
    judge_levels,
    judge_most_help,
    look_repeatedly,
    measure_across,
    measure_best,
    measure_errors,
    measure_false_equivalence,
    measure_power,
)
from tests.calibration.methods import METHODS
from tests.calibration.run import Judge, borders
from tests.calibration.scenarios import EFFECTS, SCENARIOS, Scenario

OURS = METHODS["moderated (ours)"]
SEEN = Scenario("as seen")
NO_OUTLIERS = [scenario for scenario in SCENARIOS if scenario.tails != "outliers"]


def assert_at_most(share: float, times: int, chance: float) -> None:
    """Not shown to be above: the exact binomial test of it at 0.1 % is not significant."""
    assert stats.binomtest(round(share * times), times, chance, alternative="greater").pvalue > 0.001, share


@pytest.mark.parametrize("scenario", NO_OUTLIERS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize(("datasets", "seeds"), [(1, 2), (1, 3), (2, 2), (6, 2), (6, 5), (1, 10)])
def test_false_findings_and_coverage(scenario: Scenario, datasets: int, seeds: int) -> None:
    times = 3000 // datasets
    false, coverage = measure_errors(OURS, scenario, datasets, seeds, times, np.random.default_rng(0))
    assert_at_most(false, times * datasets, 0.06)
    # Of 95 % intervals those of a setting share the AAE: as many as settings are independent, at least.
    assert_at_most(1 - coverage, times * datasets, 0.07)
    assert coverage < 0.98


def test_two_seeds_find_24_percent_and_three_times_the_fid() -> None:
    power = measure_power(OURS, SEEN, 1, 2, 4000, np.random.default_rng(1))
    assert power[1] > 0.75
    assert power[4] > 0.98


def test_what_the_field_draws_finds_differences_between_equals() -> None:
    false, _ = measure_errors(METHODS["bootstrap, no overlap"], SEEN, 1, 2, 500, np.random.default_rng(2))
    assert false > 0.6


@pytest.mark.parametrize("seeds", [2, 5])
def test_variants_at_the_margin_are_seldom_called_equivalent(seeds: int) -> None:
    assert_at_most(measure_false_equivalence(SEEN, seeds, 3000, np.random.default_rng(3)), 3000, 0.05)


@pytest.mark.parametrize("effects", [EFFECTS, 0 * EFFECTS], ids=["they differ", "all equal"])
def test_the_bold_set_holds_the_true_best(effects: np.ndarray) -> None:
    held, _ = measure_best(SEEN, 1, 2, 3000, np.random.default_rng(4), effects)
    assert_at_most(1 - held, 3000, 0.05)


@pytest.mark.parametrize("between", [0.0, 0.1])
def test_the_mean_effect_over_data_sets_is_covered(between: float) -> None:
    coverage = measure_across(SEEN, 4, 3, between, 500, np.random.default_rng(5))
    assert_at_most(1 - coverage, 500, 0.07)


class TestClaims:
    def test_c4_is_supported_where_it_is_true(self) -> None:
        helps = np.zeros((2, 6))
        helps[:, 2] = np.log(0.8)
        assert judge_most_help(helps, SEEN, 3, 500, np.random.default_rng(6))["supported"] > 0.8

    def test_c4_is_seldom_supported_where_n_iter_helps_on_one_alone(self) -> None:
        helps = np.zeros((2, 6))
        helps[1, 2] = np.log(0.8)
        found = judge_most_help(helps, SEEN, 2, 1500, np.random.default_rng(7))
        assert_at_most(found["supported"], 1500, 0.05)

    def test_c4_is_seldom_supported_where_a_rival_is_as_much_better_as_the_margin(self) -> None:
        helps = np.zeros((2, 6))
        helps[:, 2] = np.log(0.8)
        helps[0, 4] = np.log(0.8 * 0.9)
        found = judge_most_help(helps, SEEN, 3, 1500, np.random.default_rng(8))
        assert_at_most(found["supported"], 1500, 0.05)

    def test_c3_errs_in_5_percent_each_way(self) -> None:
        found = judge_differences("C3", np.zeros((1, 6)), [(0, 3)], "below", SEEN, 3, 2000, np.random.default_rng(9))
        assert_at_most(found["supported"], 2000, 0.05)
        assert_at_most(found["refuted"], 2000, 0.05)

    @pytest.mark.parametrize(
        ("claim", "truth", "judge"), borders(), ids=lambda value: value if isinstance(value, str) else ""
    )
    def test_at_the_border_of_its_truth_each_claim_errs_in_5_percent(
        self, claim: str, truth: str, judge: Judge
    ) -> None:
        """Of the page docs/calibration.md, with fewer collections."""
        found = judge(3, 600, np.random.default_rng(14))
        if "true:" in truth:
            assert found["supported"] > 0.8
        if "border of support" in truth or "no difference" in truth:
            assert_at_most(found["supported"], 600, 0.05)
        if "border of refutation" in truth or "no difference" in truth:
            assert_at_most(found["refuted"], 600, 0.05)

    def test_six_data_sets_at_the_border_refute_c1_in_5_percent_together(self) -> None:
        true = np.full(6, collapse_bound())
        found = judge_levels("C1", true, collapse_bound(), 0.2, 3, 2000, np.random.default_rng(10))
        assert_at_most(found["refuted"], 2000, 0.05)


def test_looking_until_it_is_decided_errs_in_5_percent_over_all_looks() -> None:
    found, _ = look_repeatedly(SEEN, 0 * EFFECTS, 8, 400, np.random.default_rng(11))
    assert_at_most(found.any(axis=1).mean(), 400, 0.05)


def test_looking_saves_runs_at_equal_power() -> None:
    found, runs = look_repeatedly(SEEN, EFFECTS, 8, 200, np.random.default_rng(12))
    fixed = measure_power(OURS, SEEN, 1, 5, 3000, np.random.default_rng(13))
    assert found.mean() > fixed.mean() - 0.02
    assert runs < 6 * 5
