"""Variances that borrow from each other: limma's numbers where it is limma, caution where cells are few."""

import numpy as np
import pytest
from scipy import stats

from results.compute.moderated import (
    Blocks,
    compare_paired,
    compare_unpaired,
    compare_with_first,
    estimate_prior,
    measure_blocks,
)

# squeeze_var of pylimma 0.2.0 (a port of R's limma; it asks for an older pandas than ours, so its numbers stand here):
# pip install --no-deps --target D pylimma; then squeeze_var(VARIANCES, 2.0) of its module squeeze_var.
VARIANCES = np.array([0.0004, 0.0025, 0.0009, 0.01, 0.0016, 0.0001, 0.0049, 0.0036])
LIMMA_DF, LIMMA_VARIANCE = 4.5403189209349915, 0.002107363732218077
LIMMA_SQUEEZED = [0.0015852596107346572, 0.0022274301303642375, 0.0017381573535036048, 0.004520896271898453]
LIMMA_SQUEEZED += [0.0019522141933801314, 0.0014935209650732886, 0.0029613392956551864, 0.0025638051644559226]


def test_limmas_moments_give_limmas_numbers() -> None:
    prior = estimate_prior(VARIANCES, np.array(2.0), doubt=np.inf)
    assert prior.df[0] == pytest.approx(LIMMA_DF)
    assert prior.variance[0] == pytest.approx(LIMMA_VARIANCE)
    squeezed, df = prior.squeeze(VARIANCES, np.array(2.0))
    np.testing.assert_allclose(squeezed, LIMMA_SQUEEZED)
    np.testing.assert_allclose(df, 2 + LIMMA_DF)


def test_cells_that_differ_by_less_than_chance_are_one_variance_to_limma() -> None:
    prior = estimate_prior(np.array([11, 9, 10, 12, 8, 10]) / 1e4, np.array(4.0), doubt=np.inf)
    assert np.isinf(prior.df).all()
    np.testing.assert_allclose(prior.squeeze(np.full(6, 0.5), np.array(4.0))[0], 0.001)


def test_few_cells_are_not_believed_that_far_and_many_are() -> None:
    random = np.random.default_rng(0)
    few, many = (random.chisquare(1, cells) for cells in (6, 3_000))
    assert estimate_prior(few, np.array(1.0)).df[0] < 4
    assert estimate_prior(many, np.array(1.0)).df[0] > 10


def test_the_prior_is_found_where_there_are_cells_enough() -> None:
    random = np.random.default_rng(1)
    variances = 0.04 * 6 / random.chisquare(6, 5_000)
    prior = estimate_prior(variances * random.chisquare(2, 5_000) / 2, np.array(2.0))
    assert prior.df[0] == pytest.approx(6, rel=0.2)
    assert prior.variance[0] == pytest.approx(0.04, rel=0.1)


def test_no_cell_has_more_degrees_of_freedom_than_all_together() -> None:
    variances = np.full(6, 0.01)
    df = estimate_prior(variances, np.array(1.0), doubt=np.inf).squeeze(variances, np.array(1.0))[1]
    assert df.tolist() == [6.0] * 6


def test_a_cell_that_stands_out_keeps_its_own_variance_and_spoils_no_others() -> None:
    random = np.random.default_rng(2)
    variances = 0.001 * random.chisquare(4, 40) / 4
    clean = estimate_prior(variances, np.array(4.0))
    variances[7] = 10.0
    prior = estimate_prior(variances, np.array(4.0))
    squeezed, df = prior.squeeze(variances, np.array(4.0))
    assert (squeezed[7], df[7]) == (10.0, 4.0)
    assert prior.variance[0] == pytest.approx(clean.variance[0], rel=0.2)
    assert prior.df[0] == pytest.approx(clean.df[0], rel=0.4)


def test_a_variance_that_grows_with_the_mean_is_borrowed_along_it() -> None:
    random = np.random.default_rng(3)
    means = np.linspace(0, 3, 60)
    variances = 0.001 * np.exp(means) * random.chisquare(4, 60) / 4
    prior = estimate_prior(variances, np.array(4.0), means)
    assert prior.variance[-1] / prior.variance[0] == pytest.approx(np.exp(3), rel=0.5)
    flat = estimate_prior(0.001 * random.chisquare(4, 60) / 4, np.array(4.0), means)
    assert np.ptp(flat.variance) == 0


def test_three_cells_lend_nothing_and_are_welchs() -> None:
    random = np.random.default_rng(4)
    values = random.normal(0, [[1], [3], [2]], (3, 4))
    test = compare_with_first(values[None])
    for other in (1, 2):
        expected = stats.ttest_ind(values[other], values[0], equal_var=False)
        assert test.p[0, other - 1] == pytest.approx(expected.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_copies_are_evidence_of_nothing() -> None:
    copies = compare_unpaired(
        np.array([5.0]), (np.array([0.0]), np.array([0.01])), (np.array([2.0]), np.array([2.0])),
        (np.array([1.0]), np.array([1.0])), np.array([False]),
    )  # fmt: skip
    assert np.isnan(copies.p).all()
    assert np.isnan(compare_paired(np.array([5.0]), np.array([0.0]), np.array([3.0])).p).all()


def test_seeds_that_go_together_are_paired_and_others_are_not() -> None:
    random = np.random.default_rng(5)
    shared = random.normal(0, 1, (6, 1, 4))
    together, apart = shared + random.normal(0, 0.1, (6, 6, 4)), np.random.default_rng(6).normal(0, 1, (6, 6, 4))
    assert measure_blocks(together).pays
    assert measure_blocks(together).correlation > 0.9
    assert not measure_blocks(apart).pays
    assert np.nanmedian(compare_with_first(together).error) < 0.15, "not the seeds' own spread, 0.7"


def test_with_two_seeds_of_one_data_set_a_coincidence_is_no_correlation() -> None:
    """F is 12 in both: at the 5 % of six blocks that is a correlation, at the 0.5 % of one it is none."""
    one, six = (Blocks(*(np.asarray(v) for v in (12.0, df, 1.0, 5 * df, 6.0))) for df in (1, 6))
    assert not one.pays
    assert six.pays
