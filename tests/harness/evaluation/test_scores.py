"""Scores on cases with a known answer, and beside other people's implementations of the same formulas."""

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as cleanfid_frechet_distance
from cleanfid.fid import kernel_distance as cleanfid_kernel_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from harness.evaluation.manifold import compute_manifold_scores, count_duplicates, neighbour_radii
from harness.evaluation.scores import (
    extrapolate_fid,
    frechet_distance,
    frechet_distance_of_few,
    inception_score,
    kernel_distance,
    matrix_square_root,
)
from harness.evaluation.statistics import SPLITS, ClassSums, FeatureSums, Moments
from harness.seeding import build_generator

CPU = torch.device("cpu")


def draw(n: int, f: int, seed: int, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed)) * std + mean


def moments_of(features: Tensor) -> Moments:
    sums = FeatureSums.zeros(features.shape[1], CPU)
    sums.add(features)
    return sums.moments()


def gaussian(mean: list[float], std: list[float]) -> Moments:
    return Moments(1000, torch.tensor(mean).double(), torch.tensor(std).double().square().diag())


class TestFrechetDistance:
    def test_equal_gaussians_are_at_distance_zero(self) -> None:
        moments = moments_of(draw(100, 30, 0))
        assert frechet_distance(moments, moments) < 1e-9

    def test_closed_form_of_diagonal_gaussians(self) -> None:
        distance = frechet_distance(gaussian([2, -1], [3, 0.5]), gaussian([0, 1], [1, 2]))
        assert distance == pytest.approx((2**2 + 2**2) + (2**2 + 1.5**2))

    @pytest.mark.filterwarnings("ignore:The `disp` argument")
    def test_equals_clean_fids(self) -> None:
        real, fake = moments_of(draw(200, 40, 1) @ draw(40, 40, 2)), moments_of(draw(200, 40, 3, mean=0.5))
        (m1, s1), (m2, s2) = ((moments.mean.numpy(), moments.covariance.numpy()) for moments in (real, fake))
        expected = float(cleanfid_frechet_distance(m1, s1, m2, s2))
        assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(real, fake, matrix_square_root(real.covariance)) == pytest.approx(expected, rel=1e-9)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(2, 40))
    def test_few_images_have_the_same_distance_by_their_gram_matrix(self, n: int) -> None:
        real, fake = moments_of(draw(300, 50, 4)), draw(n, 50, n, mean=0.3)
        root = matrix_square_root(real.covariance)
        assert frechet_distance_of_few(real, fake, root) == pytest.approx(
            frechet_distance(real, moments_of(fake), root), rel=1e-6
        )

    def test_is_symmetric_and_survives_singular_covariances(self) -> None:
        singular, other = gaussian([0, 0, 0], [2, 0, 0]), moments_of(draw(50, 3, 5))
        assert frechet_distance(singular, other) == pytest.approx(frechet_distance(other, singular), rel=1e-6)

    def test_other_features_cannot_be_compared(self) -> None:
        with pytest.raises(ValueError, match="cannot be compared"):
            frechet_distance(gaussian([0, 0], [1, 1]), gaussian([0, 0, 0], [1, 1, 1]))


class TestFIDInfinity:
    def test_has_no_bias_where_the_fid_of_few_images_has_much(self) -> None:
        """Samples of the reference itself: the distance is 0, the FID of n images about F^2 / 4n."""
        f = 20
        truth = Moments(10**9, torch.zeros(f).double(), torch.eye(f).double())
        sizes = [200, 400, 800, 1600]
        distances = [
            float(np.mean([frechet_distance(truth, moments_of(draw(n, f, seed))) for seed in range(20)])) for n in sizes
        ]
        assert distances[-1] > 0.05
        assert abs(extrapolate_fid(sizes, distances)) < 0.15 * distances[-1]

    def test_a_line_in_1_over_n_is_met_where_it_ends(self) -> None:
        assert extrapolate_fid([10, 20, 40], [5 + 3 / n for n in (10, 20, 40)]) == pytest.approx(5)

    def test_one_size_makes_no_line(self) -> None:
        with pytest.raises(ValueError, match="two sizes"):
            extrapolate_fid([10], [1.0])


def scores_of(logits: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Inception Score in one split and in ten."""
    sums = ClassSums(logits.shape[1], CPU)
    sums.add(torch.arange(len(logits)) * SPLITS // len(logits), logits.double().softmax(1))
    parts = sums.table[:, :-2], sums.table[:, -2], sums.table[:, -1]
    return inception_score(*(part.sum(0, keepdim=True) for part in parts)), inception_score(*parts)


class TestInceptionScore:
    def test_confident_and_diverse_images_score_the_number_of_classes(self) -> None:
        assert scores_of(torch.eye(10).repeat(50, 1) * 1000)[0] == (pytest.approx(10), 0)

    def test_a_collapsed_generator_scores_one(self) -> None:
        one, ten = scores_of(torch.tensor([[0.7, 0.2, 0.1]]).repeat(50, 1))
        assert one == (pytest.approx(1), 0)
        assert ten == (pytest.approx(1), pytest.approx(0, abs=1e-9))

    def test_equals_torch_fidelitys_in_one_split_and_in_ten(self) -> None:
        logits = draw(240, 8, 6)
        for splits, (mean, std) in zip((1, 10), scores_of(logits), strict=True):
            theirs = isc_features_to_metric(logits, splits=splits, shuffle=False)
            assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
            assert std == pytest.approx(theirs["inception_score_std"], abs=1e-9)


class TestKernelDistance:
    def test_equals_clean_fids_and_torch_fidelitys_on_the_whole_sets(self) -> None:
        real, fake = draw(120, 16, 7), draw(120, 16, 8, mean=0.2)
        kid, stderr = kernel_distance(real, fake, build_generator(0, "kid"))
        theirs = kid_features_to_metric(
            real, fake, kid_subsets=1, kid_subset_size=120, kid_degree=3, kid_gamma=None, kid_coef0=1, verbose=False
        )
        assert kid == pytest.approx(cleanfid_kernel_distance(real.numpy(), fake.numpy(), num_subsets=1), rel=1e-5)
        assert kid == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
        assert stderr is None

    def test_subsets_estimate_the_same_and_say_how_well(self) -> None:
        real, fake = draw(3000, 16, 9), draw(3000, 16, 10, mean=0.1)
        whole, _ = kernel_distance(real, fake, build_generator(0, "kid"), size=3000)
        mean, stderr = kernel_distance(real, fake, build_generator(0, "kid"), size=200)
        assert stderr is not None
        assert 0 < stderr < 0.2 * whole
        assert abs(mean - whole) < 4 * stderr

    def test_is_unbiased(self) -> None:
        """Two samples of one distribution: as often below zero as above."""
        distances = [
            kernel_distance(draw(50, 8, seed), draw(50, 8, 1000 + seed), build_generator(0, "kid"))[0]
            for seed in range(60)
        ]
        assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(60)
        assert min(distances) < 0 < max(distances)

    def test_one_image_has_no_unbiased_estimate(self) -> None:
        with pytest.raises(ValueError, match="2 images or more"):
            kernel_distance(draw(1, 4, 0), draw(9, 4, 1), build_generator(0, "kid"))


class TestManifoldScores:
    @settings(max_examples=5, deadline=None)
    @given(st.integers(7, 80), st.integers(7, 80), st.floats(-2, 2))
    def test_equal_the_authors_implementation(self, n: int, m: int, shift: float) -> None:
        real, fake = draw(n, 8, 11), draw(m, 8, 12, mean=shift)
        expected = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
        assert compute_manifold_scores(real, fake) == pytest.approx(expected, abs=1e-12)

    def test_blocks_make_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, fake = draw(70, 8, 13), draw(90, 8, 14, mean=0.5)
        whole = compute_manifold_scores(real, fake)
        monkeypatch.setattr("harness.evaluation.manifold.BLOCK", 16)
        assert compute_manifold_scores(real, fake) == whole

    def test_identical_sets_score_one(self) -> None:
        x = draw(200, 8, 15)
        scores = compute_manifold_scores(x, x.clone())
        assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)

    def test_a_set_against_itself_has_precision_and_recall_one_also_where_images_repeat(self) -> None:
        x = draw(20, 8, 15).repeat(10, 1)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
        scores = compute_manifold_scores(x, x.clone())
        assert (scores["precision"], scores["recall"], scores["coverage"]) == (1, 1, 1)
        assert neighbour_radii(x).eq(0).all()
        assert count_duplicates(x) == 180

    def test_a_ball_holds_its_boundary_where_the_prdc_package_compares_strictly(self) -> None:
        """Real images at 0 ... 8 on a line; a fake one at 13 is as far from 8 as 8's fifth neighbour, 3."""
        real = torch.arange(9.0)[:, None]
        fake = torch.tensor([[13.0]] + [[100.0 + i] for i in range(6)])
        ours = compute_manifold_scores(real, fake)
        theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=5)
        assert ours["precision"] == pytest.approx(1 / 7)
        assert theirs["precision"] == 0

    def test_minus_zero_is_zero(self) -> None:
        assert count_duplicates(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]])) == 1

    @pytest.mark.parametrize("bit", [0, 12, 23, 30, 31])
    def test_rows_that_differ_in_one_bit_are_no_duplicates(self, bit: int) -> None:
        """Of one of 64 features, each row in another one."""
        bits = torch.full((64, 64), 1.5).view(torch.int32)
        bits = torch.cat([bits, bits ^ torch.eye(64, dtype=torch.int32) * (-(2**31) if bit == 31 else 2**bit)])
        assert count_duplicates(bits.view(torch.float32)) == 63

    def test_a_collapsed_generator_has_high_precision_and_low_recall(self) -> None:
        real = draw(500, 8, 16)
        scores = compute_manifold_scores(real, real[:1] + draw(500, 8, 17, std=1e-3))
        assert scores["precision"] == 1
        assert scores["recall"] < 0.05
        assert scores["coverage"] < 0.1

    def test_a_generator_that_memorises_half_covers_half(self) -> None:
        real = draw(1000, 30, 18)
        scores = compute_manifold_scores(real, real[:500].repeat(2, 1))
        assert scores["precision"] == 1
        assert 0.5 <= scores["coverage"] < 1

    def test_noise_far_away_scores_nothing(self) -> None:
        scores = compute_manifold_scores(draw(100, 8, 19), draw(100, 8, 20, mean=100))
        assert set(scores.values()) == {0}

    def test_k_images_have_no_kth_neighbour(self) -> None:
        with pytest.raises(ValueError, match="more than 5 images"):
            neighbour_radii(draw(5, 3, 21))


class TestStatistics:
    def test_moments_do_not_depend_on_the_batches(self) -> None:
        features = draw(103, 6, 22, mean=5)
        sums = FeatureSums.zeros(6, CPU)
        for part in features.split(17):
            sums.add(part)
        moments = sums.moments()
        assert moments.n == 103
        torch.testing.assert_close(moments.mean, features.double().mean(0))
        torch.testing.assert_close(moments.covariance, torch.cov(features.double().T))

    def test_one_image_has_no_covariance(self) -> None:
        with pytest.raises(ValueError, match="2 images or more"):
            moments_of(torch.ones(1, 3))
