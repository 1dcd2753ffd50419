"""A score's meaning: what changes it changes the protocol id, and a user's own protocol is a YAML file."""

from pathlib import Path
from typing import Any

import pytest

from harness.config import build_config
from harness.errors import InputError
from harness.protocol import Reading, load_protocol


def build_reading(**changes: Any) -> Reading:
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
    return Reading(**{**fields, **changes})


def test_a_readings_id_lasts() -> None:
    """Today's: a field that is added with a default must not rename the readings that there are."""
    names = [build_reading(**change).id for change in ({}, {"autocast": "bf16"}, {"reference": "test"})]
    assert names == ["paper-18940e1366", "paper-dab8dc549a", "paper-feb7021a0a"]


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
    assert build_reading(**change).id != build_reading().id == build_reading().id


def test_the_three_protocols_of_the_paper() -> None:
    paper, clean, published = (load_protocol(name) for name in ("paper", "clean", "published"))
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
        (protocol,) = config.protocol
        assert (protocol.name, protocol.extractor, protocol.n_fake) == ("quick", "domain", 500)
        assert build_config({"protocol": [path, "clean"], "n_fake": 7}).protocol[1].n_fake == 7

    def test_its_content_counts_and_not_its_place(self, tmp_path: Path) -> None:
        content = "name: mine\nnormalisation: running\nextractor: domain\n"
        (tmp_path / "elsewhere").mkdir()
        first = build_config({"protocol": self.write(tmp_path, content)})
        second = build_config({"protocol": self.write(tmp_path / "elsewhere", content)})
        third = build_config({"protocol": self.write(tmp_path, content + "autocast: bf16\n")})
        assert first.protocol == second.protocol != third.protocol
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
            load_protocol(path)
        with pytest.raises(InputError) as from_config:
            build_config({"protocol": path})
        assert message in str(from_command.value)
        assert message in str(from_config.value)

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(InputError, match=r"cannot read the protocol nowhere\.yaml"):
            load_protocol("nowhere.yaml")


class TestExtractorFile:
    def test_names_the_extractor_and_its_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.pt").write_bytes(b"1")
        monkeypatch.chdir(tmp_path)
        (protocol,) = build_config({"extractor": "a.pt"}).protocol
        assert (protocol.extractor, protocol.extractor_weights) == ("torchscript", tmp_path / "a.pt")

    def test_is_needed(self) -> None:
        with pytest.raises(InputError, match=r"extractor = FILE\.pt"):
            build_config({"extractor": "torchscript"})
