"""Scores on cases with a known answer; extractors and resizing against clean-fid's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from harness.config import build_config
from harness.data import TrainingSet
from harness.errors import DivergedError, InputError
from harness.evaluation.evaluate import quantise
from harness.evaluation.extractors import build_extractor, clean_resize
from harness.evaluation.protocol import Protocol
from harness.evaluation.scores import frechet_distance, inception_score, matrix_square_root
from harness.evaluation.statistics import FeatureSums
from harness.normalisation import batch_sizes, evaluation_mode
from harness.samplers import build_prior
from harness.train import prepare

CPU = torch.device("cpu")


def random_covariance(n: int, seed: int) -> Tensor:
    root = torch.randn(n, 2 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / (2 * n)


def score_of(probabilities: Tensor) -> float:
    sums = FeatureSums.zeros(1, probabilities.shape[1], CPU)
    sums.add(torch.zeros(len(probabilities), 1), probabilities)
    return inception_score(sums.n, sums.probabilities, sums.negative_entropy)


class TestFrechetDistance:
    def test_equal_gaussians_are_at_distance_zero(self) -> None:
        mean, covariance = torch.randn(30, dtype=torch.float64), random_covariance(30, 0)
        assert frechet_distance(mean, covariance, mean, covariance) < 1e-9

    def test_closed_form_of_diagonal_gaussians(self) -> None:
        m1, m2 = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([2.0, -1.0], dtype=torch.float64)
        s1, s2 = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor([9.0, 0.25], dtype=torch.float64)
        expected = (m1 - m2).square().sum() + (s1 - s2).square().sum()
        assert frechet_distance(m1, s1.square().diag(), m2, s2.square().diag()) == pytest.approx(expected.item())

    def test_equals_the_matrix_square_root_formula(self) -> None:
        m1, m2 = (torch.randn(40, dtype=torch.float64) for _ in range(2))
        c1, c2 = random_covariance(40, 1), random_covariance(40, 2)
        cross = np.trace(np.real(np.asarray(sqrtm((c1 @ c2).numpy()))))
        expected = ((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * cross
        assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected.item(), rel=1e-9)
        root = matrix_square_root(c2)
        assert frechet_distance(m1, c1, m2, c2, root) == pytest.approx(expected.item(), rel=1e-9)

    def test_is_symmetric_and_survives_singular_covariances(self) -> None:
        m = torch.zeros(10, dtype=torch.float64)
        singular = torch.zeros(10, 10, dtype=torch.float64)
        singular[0, 0] = 4
        other = random_covariance(10, 3)
        assert frechet_distance(m, singular, m, other) == pytest.approx(
            frechet_distance(m, other, m, singular), rel=1e-6
        )

    def test_other_features_cannot_be_compared(self) -> None:
        a, b = torch.zeros(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        with pytest.raises(ValueError, match="cannot be compared"):
            frechet_distance(a, a.diag(), b, b.diag())


class TestInceptionScore:
    def test_confident_and_diverse_images_score_the_number_of_classes(self) -> None:
        assert score_of(torch.eye(10).repeat(5, 1)) == pytest.approx(10)

    def test_a_collapsed_generator_scores_one(self) -> None:
        assert score_of(torch.tensor([[0.7, 0.2, 0.1]]).repeat(50, 1)) == pytest.approx(1)

    def test_equals_the_definition(self) -> None:
        p = torch.randn(200, 8).softmax(1).double()
        expected = (p * (p.log() - p.mean(0).log())).sum(1).mean().exp()
        assert score_of(p) == pytest.approx(expected.item())


class TestStatistics:
    def test_moments_do_not_depend_on_the_batches(self) -> None:
        features, probabilities = torch.randn(103, 6) + 5, torch.randn(103, 4).softmax(1)
        sums = FeatureSums.zeros(6, 4, CPU)
        for part in torch.arange(103).split(17):
            sums.add(features[part], probabilities[part])
        mean, covariance = sums.moments()
        torch.testing.assert_close(mean, features.double().mean(0))
        torch.testing.assert_close(covariance, torch.cov(features.double().T))

    def test_one_image_has_no_covariance(self) -> None:
        sums = FeatureSums.zeros(3, 2, CPU)
        sums.add(torch.ones(1, 3), torch.ones(1, 2) / 2)
        with pytest.raises(ValueError, match="2 images or more"):
            sums.moments()


class TestCleanResize:
    @pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (178, 218), (400, 350)])
    def test_equals_clean_fids_resizer(self, size: tuple[int, int]) -> None:
        from cleanfid.resize import build_resizer  # noqa: PLC0415 (slow to import)

        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        expected = build_resizer("clean")(pixels).clip(0, 255)
        ours = clean_resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], 299)[0].permute(1, 2, 0).numpy()
        assert np.abs(ours - expected).max() < 2e-3


class FakeInception(nn.Module):
    """A module with the parts of clean-fid's TorchScript file, small, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.output = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x).flatten(1)).softmax(1)


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.pt"
    torch.jit.script(FakeInception()).save(path)  # pyright: ignore[reportAttributeAccessIssue]
    return path


class TestInceptionExtractor:
    def config(self, weights: Path) -> Any:
        return build_config({"extractor": "inception", "extractor_weights": weights})

    def test_features_and_probabilities_are_the_networks(self, inception_file: Path) -> None:
        extractor = build_extractor(self.config(inception_file), CPU)
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        features, probabilities = extractor(images)
        network = torch.jit.load(inception_file)
        pixels = (clean_resize(images, 299) - 128) / 128
        torch.testing.assert_close(features, network.layers(pixels).flatten(1))
        torch.testing.assert_close(probabilities, network(pixels))
        assert (extractor.n_features, extractor.n_classes) == (8, 5)

    def test_grey_images_are_resized_once_and_count_as_three_equal_channels(self, inception_file: Path) -> None:
        extractor = build_extractor(self.config(inception_file), CPU)
        grey = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(extractor(grey)[0], extractor(grey.expand(-1, 3, -1, -1))[0])

    def test_another_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.pt").write_text("no TorchScript")
        with pytest.raises(InputError, match="not clean-fid's Inception"):
            build_extractor(self.config(tmp_path / "text.pt"), CPU)
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "linear.pt")  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(InputError, match="not clean-fid's Inception"):
            build_extractor(self.config(tmp_path / "linear.pt"), CPU)


def build_protocol(**changes: Any) -> Protocol:
    fields = {
        "name": "paper",
        "normalisation": "batch",
        "batch_size": 1024,
        "data_sha256": "0" * 64,
        "n_real": 100,
        "n_fake": 100,
        "extractor": "domain",
        "extractor_sha256": "0" * 64,
        "resize": "32 px",
    }
    return Protocol(**{**fields, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"normalisation": "running"},
        {"data_sha256": "1"},
        {"batch_size": 256},
        {"n_fake": 99},
        {"extractor_sha256": "1"},
        {"resize": "299"},
    ],
)
def test_whatever_changes_a_score_changes_the_protocol_id(change: dict[str, Any]) -> None:
    assert build_protocol(**change).id != build_protocol().id == build_protocol().id


def test_quantisation_is_that_of_a_saved_png() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.999, 1.0])
    assert quantise(x).tolist() == [0, 64, 128, 255, 255]
    with pytest.raises(DivergedError):
        quantise(torch.tensor([0.0, float("nan")]))


def test_batches_cover_every_image_and_none_is_alone() -> None:
    assert batch_sizes(2500, 1024) == [1024, 1024, 452]
    assert batch_sizes(2049, 1024) == [1024, 1025]
    assert batch_sizes(5, 1024) == [5]


class TestEvaluationMode:
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))

    def test_batch_statistics_are_those_of_the_batch_and_leave_no_trace(self) -> None:
        network, x = self.network(), torch.randn(50, 4) * 3 + 1
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        with evaluation_mode(network, "batch"):
            y = network(x)
        torch.testing.assert_close(y.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(y.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)
        after = network.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert network.training

    def test_running_statistics_make_an_image_independent_of_its_batch(self) -> None:
        network, x = self.network(), torch.randn(50, 4)
        with evaluation_mode(network, "running"):
            torch.testing.assert_close(network(x)[:10], network(x[:10]))


def score(evaluator: Any) -> dict[str, Any]:
    return evaluator.evaluate("prior", build_prior(evaluator.engine.variant.latent_dim))


class TestEvaluator:
    def prepare(self, **fields: Any) -> tuple[Any, TrainingSet, Any]:
        base = {"dataset": "digits", "extractor": "domain", "max_images": 600, "batch_size": 64}
        return prepare(build_config({**base, **fields}))

    def test_scores_repeat_and_carry_their_protocol(self) -> None:
        evaluator = self.prepare(n_fake=500)[2]
        first, second = score(evaluator), score(evaluator)
        assert first == second
        assert first["eval/protocol_id"] == evaluator.protocol.id
        assert (first["eval/n_real"], first["eval/n_fake"], first["eval/sampler"]) == (600, 500, "prior")

    def test_paper_and_clean_are_different_quantities(self) -> None:
        paper, clean = (score(self.prepare(protocol=name)[2]) for name in ("paper", "clean"))
        assert paper["eval/protocol_id"] != clean["eval/protocol_id"]
        assert paper["eval/fid"] != clean["eval/fid"]

    def test_the_reference_against_itself_is_zero(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, data, evaluator = self.prepare()
        monkeypatch.setattr(evaluator, "_generate", lambda codes, number, n: data.images[:n])
        assert score(evaluator)["eval/fid"] < 1e-6

    def test_inception_scores_the_digits_from_a_given_file(self, inception_file: Path) -> None:
        evaluator = self.prepare(extractor="inception", extractor_weights=inception_file, max_images=100)[2]
        assert score(evaluator)["eval/extractor"] == "inception"
