"""The domain classifier: shipped, trained once, or given."""

from pathlib import Path

import pytest
import torch

from harness.data.staging import load_training_set, stage_dataset
from harness.errors import InputError
from harness.evaluation import classifier as classifier_module
from harness.evaluation.classifier import SHIPPED, DomainClassifier, load_classifier, train_classifier
from tests.harness.data.test_staging import write_images


class TestDomainExtractor:
    def test_shipped_weights_know_the_digits(self) -> None:
        data = load_training_set("digits", 32)
        classifier, _ = load_classifier("digits", 32)
        with torch.no_grad():
            predicted = classifier(data.images)[1].argmax(1)
        assert data.labels is not None
        assert (predicted == data.labels).float().mean() > 0.98

    @pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
    def test_shipped_weights_are_small_and_whole(self, dataset: str) -> None:
        assert (SHIPPED / f"domain-{dataset}.safetensors").stat().st_size < 500_000
        assert load_classifier(dataset, 32)[0].n_classes == 10

    def test_three_equal_channels_count_as_grey(self) -> None:
        classifier, _ = load_classifier("digits", 32)
        images = load_training_set("digits", 32).images[:20]
        torch.testing.assert_close(classifier(images)[0], classifier(images.expand(-1, 3, -1, -1))[0])

    def test_training_is_deterministic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classifier_module, "STEPS", 5)
        data = load_training_set("digits", 32)
        assert data.labels is not None
        first, second = (train_classifier(data.images, data.labels, "digits")[0] for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_labelled_data_get_a_classifier_once(self, monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
        monkeypatch.setattr(classifier_module, "STEPS", 5)
        monkeypatch.setattr(classifier_module, "SHIPPED", Path("/nowhere"))
        _, sha256 = load_classifier("digits", 32)
        monkeypatch.setattr(classifier_module, "train_classifier", None)
        assert load_classifier("digits", 32)[1] == sha256

    def test_data_without_labels_are_told_what_to_use(self, tmp_path: Path, empty_cache: Path) -> None:
        stage_dataset("faces", 32, write_images(tmp_path / "faces"))
        with pytest.raises(InputError, match=r"no labels .*extractor_weights=FILE.*--extractor inception"):
            load_classifier("faces", 32)
        given = load_classifier("faces", 32, SHIPPED / "domain-digits.safetensors")
        assert isinstance(given[0], DomainClassifier)

    def test_weights_of_something_else_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "weights.safetensors").write_bytes(b"nothing")
        with pytest.raises(InputError, match="no whole safetensors file"):
            load_classifier("digits", 32, tmp_path / "weights.safetensors")
