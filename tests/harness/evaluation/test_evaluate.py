"""A run's evaluation: numbered images, one reference per protocol, noise floors, reconstructions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.config import build_config
from harness.data.sets import TrainingSet
from harness.errors import DivergedError, InputError
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.images import GeneratedImages, PreparedImages, Reconstructions, draw_codes, to_pixels
from harness.evaluation.normalisation import batch_sizes, evaluation_mode
from harness.evaluation.samplers import build_prior
from harness.readings import list_parts
from harness.record import key_of
from harness.train import prepare
from variants import AutoEncoder

CPU = torch.device("cpu")


def prepare_run(**fields: Any) -> tuple[Any, TrainingSet, Evaluator]:
    """A fresh variant, its data, and what scores it."""
    base = {"dataset": "digits", "extractor": "domain", "max_images": 600, "batch_size": 64}
    engine, data, (evaluator,) = prepare(build_config({**base, **fields}))
    return engine.variant, data, evaluator


def score(prepared: tuple[Any, TrainingSet, Evaluator]) -> dict[str, Any]:
    variant, _, evaluator = prepared
    (line,) = evaluator.evaluate(variant, 0, [("prior", 0)])
    return line


def test_quantisation_is_that_of_a_saved_png() -> None:
    x = torch.tensor([-1.0, -0.5, 0.0, 0.999, 1.0])
    assert to_pixels(x, "uint8").tolist() == [0, 64, 128, 255, 255]
    torch.testing.assert_close(to_pixels(x, "none"), torch.tensor([0, 63.75, 127.5, 254.8725, 255]))
    with pytest.raises(DivergedError):
        to_pixels(torch.tensor([0.0, float("nan")]), "uint8")


def test_a_code_follows_from_the_seed_and_its_number_whatever_the_batch() -> None:
    prior = build_prior(4)
    whole = draw_codes(prior, 3, "evaluation", 0, 1000)
    assert torch.equal(whole[300:777], draw_codes(prior, 3, "evaluation", 300, 777))
    assert torch.equal(whole[255:257], draw_codes(prior, 3, "evaluation", 255, 257))
    assert len(whole.unique(dim=0)) == 1000
    assert not torch.equal(whole, draw_codes(prior, 4, "evaluation", 0, 1000))


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


class TestEvaluator:
    def test_scores_repeat(self) -> None:
        prepared = prepare_run(n_fake=500)
        first, second = score(prepared), score(prepared)
        for name, value in first.items():
            # Threads may share the work otherwise the second time, and add in another order.
            same = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            assert second[name] == same or name.startswith("time/"), name
        reading = prepared[2].reading
        assert (reading.n_real, reading.n_fake, first["sampler"]) == (600, 500, "prior")
        names = "fid kid kid_stderr inception_score inception_score_10 precision recall density coverage"
        assert {f"eval/{name}" for name in names.split()} <= first.keys()

    def test_every_part_has_a_line_of_its_own(self) -> None:
        variant, _, evaluator = prepare_run(n_fake=200)
        parts = list_parts(("prior", "gaussian"), 2, reconstructions=True, mechanisms=False)
        lines = evaluator.evaluate(variant, 0, parts)
        assert [key_of({"epoch": 7, **line})[1:] for line in lines] == parts
        assert parts == [("", 0), ("prior", 0), ("gaussian", 0), ("reconstruction", 0), ("prior", 1)]
        again = evaluator.evaluate(variant, 0, [("prior", 1)])[0]
        assert again["eval/fid"] == pytest.approx(lines[-1]["eval/fid"], rel=1e-6)
        assert again["eval/fid"] != lines[1]["eval/fid"]

    def test_fid_infinity_needs_twelve_images_a_feature(self) -> None:
        assert "eval/fid_infinity" not in score(prepare_run(n_fake=12 * 128 - 1))
        scores = score(prepare_run(n_fake=12 * 128))
        assert 0 < scores["eval/fid_infinity"] < scores["eval/fid"]

    def test_paper_and_clean_are_different_quantities(self) -> None:
        paper, clean = (prepare_run(protocol=name) for name in ("paper", "clean"))
        assert paper[2].reading.id != clean[2].reading.id
        assert score(paper)["eval/fid"] != score(clean)["eval/fid"]

    def test_the_reference_against_itself_is_zero(self) -> None:
        _, data, evaluator = prepare_run()
        scores = evaluator.score(PreparedImages(data.images))
        assert scores["fid"] == pytest.approx(0, abs=1e-6)
        assert scores["precision"] == scores["recall"] == scores["coverage"] == 1

    def test_a_user_protocol_scores_as_it_says(self, tmp_path: Path) -> None:
        path = tmp_path / "small.yaml"
        path.write_text("normalisation: running\nextractor: domain\nbatch_size: 100\nn_fake: 300\nquantisation: none\n")
        prepared = prepare_run(protocol=str(path))
        reading = prepared[2].reading
        assert (reading.name, reading.batch_size, reading.n_fake) == ("small", 100, 300)
        images = GeneratedImages(prepared[0], build_prior(10), reading, 0, CPU)
        assert next(images.parts(0, 10))[1].dtype == torch.float32
        assert score(prepared)["eval/fid"] > 0

    def test_the_test_split_is_asked_for_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "held_out.yaml"
        path.write_text("normalisation: running\nextractor: domain\nreference: test\n")
        with pytest.raises(InputError, match="scores against the test split, and digits has none"):
            prepare_run(protocol=str(path))

    def test_fashion_mnists_test_split_can_be_the_reference(self, fashion_mnist: Path, tmp_path: Path) -> None:
        path = tmp_path / "held_out.yaml"
        path.write_text("normalisation: running\nextractor: domain\nreference: test\n")
        held_out = prepare_run(dataset="fashion_mnist", protocol=str(path))[2]
        trained_on = prepare_run(dataset="fashion_mnist", protocol="clean")[2]
        assert held_out.reading.reference == "test"
        assert held_out.reading.data_sha256 != trained_on.reading.data_sha256


class TestNoiseFloor:
    def test_two_halves_of_the_training_set_are_close_and_not_equal(self) -> None:
        prepared = prepare_run()
        floor, scores = prepared[2].floor, score(prepared)
        assert (floor["split_half"]["n_real"], floor["split_half"]["n_fake"]) == (300, 300)
        assert 0 < floor["split_half"]["fid"] < 0.05 * scores["eval/fid"]
        assert "train_test" not in floor, "the digits have no test split"

    def test_the_test_split_scores_as_real_images_do(self, fashion_mnist: Path) -> None:
        prepared = prepare_run(dataset="fashion_mnist", max_images=12_000)
        floor, scores = prepared[2].floor, score(prepared)
        assert (floor["train_test"]["n_real"], floor["train_test"]["n_fake"]) == (12_000, 10_000)
        assert 0 < floor["train_test"]["fid"] < 0.01 * scores["eval/fid"]
        assert floor["train_test"]["precision"] > 0.8
        assert (floor["split_half"]["n_real"], floor["split_half"]["n_fake"]) == (6_000, 6_000)


class TestReconstructions:
    def test_a_perfect_autoencoder_reconstructs_the_reference(self) -> None:
        variant, data, evaluator = prepare_run(variant="equal_linear", options={"sigma": "linear"})
        x = data.images.float().div(127.5).sub(1).expand(-1, 3, -1, -1)
        numbers = torch.arange(len(x))
        codes = torch.zeros(len(x), variant.latent_dim)
        codes[:, 0] = numbers
        lookup = {tuple(image.flatten()[:2000:7].tolist()): code for image, code in zip(x, codes, strict=True)}
        variant.posterior = lambda batch: (
            torch.stack([lookup[tuple(image.flatten()[:2000:7].tolist())] for image in batch]),
            torch.zeros(len(batch), variant.latent_dim),
        )
        variant.decode = lambda z: x[z[:, 0].round().long()]
        images = Reconstructions(variant, data, evaluator.reading, 0, CPU)
        assert evaluator.score(images)["fid"] == pytest.approx(0, abs=1e-3)

    def test_as_many_as_are_asked_for_spread_over_the_training_set(self) -> None:
        for n_fake in (100, 600, 1500):
            variant, data, evaluator = prepare_run(n_fake=n_fake)
            assert isinstance(variant, AutoEncoder)
            images = Reconstructions(variant, data, evaluator.reading, 0, CPU)
            numbers, pixels = next(images.parts(0, len(images)))
            assert len(images) == len(numbers) == len(pixels) == n_fake
