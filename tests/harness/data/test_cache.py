"""The cache gives back what was put in, whoever else writes to it, or makes it anew."""

import errno
import io
import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from safetensors.torch import save_file

from harness.config import build_config
from harness.data.bundle import load_bundle, save_bundle
from harness.data.cache import LEASE_SECONDS, acquire_lease, cache_folder, cached, load_entry, locked
from harness.data.staging import load_training_set, stage_dataset
from harness.data.weights import INCEPTION, TORCHVISION_INCEPTION, PublishedWeights, stage_weights, weights_path
from harness.errors import InputError
from harness.files import LEFT_SECONDS, remove_leftovers
from harness.train import prepare
from tests.harness.data.test_staging import write_images

ROOT = Path(__file__).parents[3]


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

    def test_a_cache_that_cannot_be_written_is_bad_input_for_who_stages(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "file"))
        with pytest.raises(InputError, match="AAEBENCH_CACHE"):
            stage_dataset("digits", 32)

    def test_a_run_computes_in_memory_what_it_cannot_keep_with_one_warning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        stored = load_training_set("digits", 32)
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "file"))
        config = build_config({"extractor": "domain", "max_images": 200, "batch_size": 64})
        _, data, (evaluator,) = prepare(config)
        assert data.sha256 == stored.sha256
        assert evaluator.floor["split_half"]["fid"] > 0
        assert caplog.text.count("going on without storing it") == 1

    def test_what_is_in_another_users_cache_is_read_and_nobody_waits_for_a_lock_left_there(
        self, empty_cache: Path
    ) -> None:
        """Root may write anywhere, so it gives that up first."""
        stage_dataset("digits", 16)
        (empty_cache / "data" / ".digits-8px.safetensors.lease").write_text("left")
        code = (
            "from harness.data.staging import load_training_set\n"
            "print(*(load_training_set('digits', size).sha256 for size in (16, 8)))"
        )
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
        (empty_cache / "data").chmod(0o555)
        try:
            read = subprocess.run(
                [*drop, sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100, cwd=ROOT
            )
        finally:
            (empty_cache / "data").chmod(0o755)
        assert read.stdout.split()[0] == load_training_set("digits", 16).sha256
        assert len(read.stdout.split()) == 2
        assert read.stderr.count("going on without storing it") == 1

    def test_in_a_groups_folder_everything_is_the_groups(self, empty_cache: Path) -> None:
        empty_cache.mkdir()
        empty_cache.chmod(0o2770)
        before = os.umask(0o077)
        try:
            path = stage_dataset("digits", 16)
            lease = acquire_lease(path)
            modes = {file: stat.S_IMODE(file.stat().st_mode) for file in (path, path.parent, Path(lease.lock_file))}
            lease.release()
        finally:
            os.umask(before)
        assert [mode & 0o070 for mode in modes.values()] == [0o060, 0o070, 0o060]
        assert modes[path.parent] & stat.S_ISGID

    def test_what_another_process_is_writing_is_not_removed(self, tmp_path: Path) -> None:
        folder = tmp_path / ".writing-bundle-1"
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "large").write_text("half")
        old = time.time() - 2 * LEFT_SECONDS
        os.utime(folder / "data", (old, old))
        os.utime(folder, (old, old))
        remove_leftovers(tmp_path, "bundle-")
        assert folder.exists(), "a file in it is being written"
        os.utime(folder / "data" / "large", (old, old))
        remove_leftovers(tmp_path, "bundle-")
        assert not folder.exists()

    def test_without_a_home_nothing_is_kept_and_all_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HOME", "XDG_CACHE_HOME", "AAEBENCH_CACHE"):
            monkeypatch.delenv(name, raising=False)

        def no_entry(_: int) -> None:
            raise KeyError

        monkeypatch.setattr("pwd.getpwuid", no_entry)
        assert cache_folder() == Path("/nonexistent/.cache/aaebench")

    def test_processes_that_stage_at_once_do_the_work_once(self, tmp_path: Path, empty_cache: Path) -> None:
        folder = write_images(tmp_path / "faces", n=30)
        code = (
            "import sys; from pathlib import Path; import harness.data.staging as s\n"
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


class TestLease:
    """The lock of an entry: a file that its holder touches, on any file system."""

    def start_holder(self, path: Path) -> subprocess.Popen[str]:
        code = "import time\nfrom harness.data.cache import locked\nfrom pathlib import Path\n"
        code += f"with locked(Path({str(path)!r})): print('held', flush=True); time.sleep(600)"
        holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    def test_of_a_killed_process_is_taken_over_at_once(self, tmp_path: Path) -> None:
        holder = self.start_holder(tmp_path / "entry")
        with pytest.raises(Timeout):
            acquire_lease(tmp_path / "entry", timeout=0.5)
        holder.kill()
        holder.wait()
        started = time.monotonic()
        with locked(tmp_path / "entry"):
            assert time.monotonic() - started < LEASE_SECONDS / 2

    def test_of_a_dead_process_on_another_node_is_taken_over_when_its_touches_stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.data.cache.LEASE_SECONDS", 2)
        lease = acquire_lease(tmp_path / "entry")
        record = Path(lease.lock_file).read_text()
        lease.release()
        assert socket.gethostname() in record
        Path(lease.lock_file).write_text(record.replace(socket.gethostname(), "another-node"))
        started = time.monotonic()
        with locked(tmp_path / "entry"):
            assert 1 < time.monotonic() - started < 20


def test_jobs_that_want_the_same_statistics_at_once_compute_them_once(tmp_path: Path) -> None:
    code = (
        "import time, torch; from pathlib import Path; from harness.evaluation.reference import cached_together\n"
        "from harness.launch.processes import Processes, build_accelerator\n"
        "def gather():\n"
        f"    open({str(tmp_path / 'count')!r}, 'a').write('x'); time.sleep(2); return torch.ones(3)\n"
        f"path, processes = Path({str(tmp_path / 'cache' / 'entry')!r}), Processes(build_accelerator('no'))\n"
        "print(cached_together(path, processes, gather, lambda x: ({'x': x}, {}))[0]['x'].tolist())"
    )
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)
    ]
    assert {job.communicate()[0] for job in jobs} == {"[1.0, 1.0, 1.0]\n"}
    assert (tmp_path / "count").read_text() == "x"


class TestFaults:
    def test_an_entry_that_cannot_be_stored_is_used_with_a_warning(self, tmp_path: Path) -> None:
        """A file size limit fails the write as a full disk does."""
        code = (
            "import resource, torch, logging; from pathlib import Path; from harness.data.cache import cached\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            f"tensors, _ = cached(Path({str(tmp_path / 'entry')!r}), lambda: ({{'x': torch.ones(10**6)}}, {{}}))\n"
            "print(int(tensors['x'].sum()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout == "1000000\n"
        assert "going on without storing it" in done.stderr
        assert [file for file in tmp_path.iterdir() if not file.name.endswith(".lease")] == []

    def test_a_full_disk_stops_nothing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Not even the lock can be written, as on a file system without a free block."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pathlib.Path.mkdir", refuse)
            tensors, _ = cached(tmp_path / "cache" / "entry", lambda: ({"x": torch.ones(3)}, {}))
        assert tensors["x"].sum() == 3
        assert "going on without storing it" in caplog.text

    def test_a_reference_cut_short_is_computed_anew_with_a_warning(
        self, empty_cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = build_config({"extractor": "domain", "max_images": 200, "batch_size": 64})
        whole = prepare(config)[2][0].reference
        (file,) = (empty_cache / "statistics").glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:-1000])
        again = prepare(config)[2][0].reference
        assert whole is not None
        assert again is not None
        assert torch.equal(whole.moments.covariance, again.moments.covariance)
        assert "is damaged" in caplog.text


RIGHT = b"what the publisher published"
WEIGHTS = PublishedWeights("a network", "network.pt", "https://localhost/", sha256(RIGHT).hexdigest(), "--network")


class TestWeights:
    def test_a_missing_file_says_how_to_stage_it_and_what_else_there_is(self, empty_cache: Path) -> None:
        with pytest.raises(InputError, match=r"aaebench stage --inception .*--extractor domain"):
            weights_path(INCEPTION)
        with pytest.raises(InputError, match="aaebench stage --torchvision-inception"):
            weights_path(TORCHVISION_INCEPTION)

    def test_another_file_is_refused_by_its_checksum(self, tmp_path: Path, empty_cache: Path) -> None:
        (tmp_path / "weights.pt").write_bytes(b"something else")
        for weights in (INCEPTION, TORCHVISION_INCEPTION):
            with pytest.raises(InputError, match="SHA-256"):
                stage_weights(weights, tmp_path / "weights.pt")
        assert not list(empty_cache.rglob("*.pt"))

    def test_the_right_file_is_staged_and_a_damaged_one_replaced(self, tmp_path: Path, empty_cache: Path) -> None:
        (tmp_path / "right").write_bytes(RIGHT)
        path = stage_weights(WEIGHTS, tmp_path / "right")
        assert weights_path(WEIGHTS) == path == empty_cache / "weights" / "network.pt"
        path.write_bytes(RIGHT[:-3])
        with pytest.raises(InputError, match="has SHA-256"):
            weights_path(WEIGHTS)
        stage_weights(WEIGHTS, tmp_path / "right")
        assert path.read_bytes() == RIGHT


class TestBundle:
    @pytest.fixture
    def bundle(self, tmp_path: Path, empty_cache: Path) -> Path:
        (tmp_path / "right").write_bytes(RIGHT)
        stage_weights(WEIGHTS, tmp_path / "right")
        stage_dataset("digits", 16)
        return save_bundle(tmp_path / "cache.tar")

    def move(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "elsewhere"))
        return tmp_path / "elsewhere"

    def test_carries_a_whole_cache(self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = load_training_set("digits", 16)
        elsewhere = self.move(tmp_path, monkeypatch)
        placed = load_bundle(bundle)
        assert {path.relative_to(elsewhere).as_posix() for path in placed} == {
            "data/digits-16px.safetensors",
            "weights/network.pt",
        }
        assert weights_path(WEIGHTS).read_bytes() == RIGHT
        assert load_training_set("digits", 16).sha256 == before.sha256
        assert not list(elsewhere.glob(".bundle*"))

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "other"])
    def test_a_damaged_one_changes_nothing(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        content = bytearray(bundle.read_bytes())
        at = content.index(RIGHT)
        content[at] ^= 255
        bundle.write_bytes({"truncated": content[: len(content) // 3], "flipped": content, "other": b"text"}[damage])
        elsewhere = self.move(tmp_path, monkeypatch)
        with pytest.raises(InputError, match=r"damaged|no whole bundle"):
            load_bundle(bundle)
        assert not [path for path in elsewhere.rglob("*") if path.is_file()]

    def test_names_that_lead_out_of_the_cache_are_refused(self, tmp_path: Path, empty_cache: Path) -> None:
        for name in ("../outside", "/etc/outside", "data/../../outside", "elsewhere/file", "data/.hidden"):
            with tarfile.open(tmp_path / "bad.tar", "w") as tar:
                manifest = json.dumps({name: "0"}).encode()
                entry = tarfile.TarInfo("manifest.json")
                entry.size = len(manifest)
                tar.addfile(entry, io.BytesIO(manifest))
            with pytest.raises(InputError, match="does not belong into a cache"):
                load_bundle(tmp_path / "bad.tar")

    def test_what_is_no_bundle_is_not_replaced(self, tmp_path: Path, empty_cache: Path) -> None:
        stage_dataset("digits", 16)
        (tmp_path / "photo.tar").write_text("the user's own")
        for path in (tmp_path / "photo.tar", Path("/dev/null")):
            with pytest.raises(InputError, match="is there and no bundle"):
                save_bundle(path)
        assert (tmp_path / "photo.tar").read_text() == "the user's own"
        assert save_bundle(save_bundle(tmp_path / "cache.tar")).is_file()

    def test_a_bundle_larger_than_the_disk_writes_nothing(
        self, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = self.move(tmp_path, monkeypatch)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(InputError, match="free some space"):
            load_bundle(bundle)
        assert not [path for path in elsewhere.rglob("*") if path.is_file()]

    def test_an_empty_cache_makes_none(self, tmp_path: Path, empty_cache: Path) -> None:
        with pytest.raises(InputError, match="nothing is staged"):
            save_bundle(tmp_path / "cache.tar")
        assert not (tmp_path / "cache.tar").exists()
