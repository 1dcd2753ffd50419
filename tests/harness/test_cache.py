"""The cache gives back what was put in, whoever else writes to it, or makes it anew."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.cache import cached, load_entry
from harness.errors import InputError
from harness.staging import inception_path, load_training_set, stage_dataset, stage_inception
from tests.harness.test_staging import write_images


class TestCache:
    def test_a_damaged_entry_is_made_anew(self, empty_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = stage_dataset("digits", 16)
        whole, checksum = path.read_bytes(), load_training_set("digits", 16).sha256
        for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            path.write_bytes(damaged)
            assert load_training_set("digits", 16).sha256 == checksum
            assert load_entry(path) is not None
        assert caplog.text.count("making it anew") == 3

    def test_what_fails_while_computing_leaves_nothing(self, empty_cache: Path) -> None:
        def fail() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
            raise InputError("no")

        with pytest.raises(InputError):
            cached(empty_cache / "entry.safetensors", fail)
        assert not (empty_cache / "entry.safetensors").exists()

    def test_an_entry_without_checksum_is_not_used(self, empty_cache: Path) -> None:
        empty_cache.mkdir()
        save_file({"images": torch.zeros(2)}, empty_cache / "entry.safetensors")
        assert load_entry(empty_cache / "entry.safetensors") is None

    def test_an_unwritable_cache_is_bad_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "file"))
        with pytest.raises(InputError, match="AAEBENCH_CACHE"):
            load_training_set("digits", 32)

    def test_processes_that_stage_at_once_do_the_work_once(self, tmp_path: Path, empty_cache: Path) -> None:
        folder = write_images(tmp_path / "faces", n=30)
        code = (
            "import sys; from pathlib import Path; import harness.staging as s\n"
            "prepare = s._prepare\n"
            "def counted(*a):\n"
            f"    open({str(tmp_path / 'count')!r}, 'a').write('x'); return prepare(*a)\n"
            "s._prepare = counted\n"
            f"s.known_source = lambda name: Path({str(folder)!r})\n"
            "print(s.load_training_set('faces', 32).sha256)"
        )
        command = [sys.executable, "-c", code.replace("'faces'", "'celeba'")]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        checksums = {process.communicate()[0] for process in processes}
        assert [process.returncode for process in processes] == [0] * 4
        assert len(checksums) == 1
        assert (tmp_path / "count").read_text() == "x"


class TestInception:
    def test_a_missing_file_says_how_to_stage_it_and_what_else_there_is(self, empty_cache: Path) -> None:
        with pytest.raises(InputError, match=r"aaebench stage --inception .*--extractor domain"):
            inception_path()

    def test_another_file_is_refused_by_its_checksum(self, tmp_path: Path, empty_cache: Path) -> None:
        (tmp_path / "weights.pt").write_bytes(b"something else")
        with pytest.raises(InputError, match="SHA-256"):
            stage_inception(tmp_path / "weights.pt")
        assert not list(empty_cache.rglob("*.pt"))
