"""A score's meaning: what changes it changes the protocol id, and a user's own protocol is a YAML file."""

from pathlib import Path
from typing import Any

import pytest

from harness.config import build_config
from harness.errors import InputError
from harness.protocol import Protocol, load_named_definition


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
        "resize": "antialiased, 32 px",
    }
    return Protocol(**{**fields, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"normalisation": "running"},
        {"batch_size": 256},
        {"data_sha256": "1"},
        {"n_real": 99},
        {"n_fake": 99},
        {"extractor": "inception"},
        {"extractor_sha256": "1"},
        {"resize": "clean, 299 px"},
        {"quantisation": "none"},
        {"reference": "test"},
        {"autocast": "bf16"},
        {"statistics_version": 0},
    ],
)
def test_whatever_changes_a_score_changes_the_protocol_id(change: dict[str, Any]) -> None:
    assert build_protocol(**change).id != build_protocol().id == build_protocol().id


def test_the_three_protocols_of_the_paper() -> None:
    paper, clean, published = (load_named_definition(name) for name in ("paper", "clean", "published"))
    assert (paper.normalisation, clean.normalisation, published.normalisation) == ("batch", "running", "batch")
    assert (paper.extractor, clean.extractor, published.extractor) == ("inception", "inception", "torchvision")
    assert (paper.quantisation, published.quantisation) == ("uint8", "none")


class TestUserDefined:
    def write(self, folder: Path, content: str) -> str:
        path = folder / "quick.yaml"
        path.write_text(content)
        return str(path)

    def test_its_fields_are_the_runs_defaults(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "normalisation: running\nextractor: domain\nn_fake: 500\nreference: test\n")
        config = build_config({"protocol": path})
        assert (config.protocol.name, config.extractor, config.n_fake) == ("quick", "domain", 500)
        assert build_config({"protocol": path, "n_fake": 7}).n_fake == 7

    def test_its_content_counts_and_not_its_place(self, tmp_path: Path) -> None:
        content = "name: mine\nnormalisation: running\nextractor: domain\n"
        (tmp_path / "elsewhere").mkdir()
        first = build_config({"protocol": self.write(tmp_path, content)})
        second = build_config({"protocol": self.write(tmp_path / "elsewhere", content)})
        third = build_config({"protocol": self.write(tmp_path, content + "autocast: bf16\n")})
        assert first.run_id == second.run_id != third.run_id
        assert build_config(first.model_dump(mode="json")) == first

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("normalisation: bach", "normalisation"),
            ("normalization: batch", "unknown protocol field 'normalization'; did you mean normalisation?"),
            ("name: paper\nnormalisation: batch", "names a shipped protocol"),
            ("normalisation: batch\nextractor: incepton", "did you mean inception?"),
            ("normalisation: batch\nbatch_size: 1", "batch_size"),
            ("- batch", "no mapping"),
            ("a: [", "cannot read the protocol"),
            ("extractor: domain", "normalisation"),
        ],
    )
    def test_what_is_wrong_with_it_is_said(self, tmp_path: Path, content: str, message: str) -> None:
        path = self.write(tmp_path, content)
        with pytest.raises(InputError) as from_command:
            load_named_definition(path)
        with pytest.raises(InputError) as from_config:
            build_config({"protocol": path})
        assert message in str(from_command.value)
        assert message in str(from_config.value)

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match=r"cannot read the protocol nowhere\.yaml"):
            load_named_definition("nowhere.yaml")


class TestExtractorFile:
    def test_names_the_extractor_and_counts_by_content(self, tmp_path: Path) -> None:
        for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
            (tmp_path / name).write_bytes(content)
        a, b, c = (build_config({"extractor": str(tmp_path / name)}) for name in ("a.pt", "b.pt", "c.pt"))
        assert a.extractor == "torchscript"
        assert a.run_id == b.run_id != c.run_id

    def test_is_needed(self) -> None:
        with pytest.raises(InputError, match=r"extractor = FILE\.pt"):
            build_config({"extractor": "torchscript"})
