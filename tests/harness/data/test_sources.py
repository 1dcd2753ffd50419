"""Nothing is left out in silence: folders and archives are read whole, or refused, and what is no image is named."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data import source as source_module
from harness.data.cache import read_metadata
from harness.data.readers.cifar import load_arrays
from harness.data.staging import load_test_images, load_training_set, stage_dataset
from harness.errors import InputError
from tests.harness.data.test_staging import GREY, LABELS, idx_bytes, write_idx, write_images

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("empty_cache")


def png(colour: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(content, "png")
    return content.getvalue()


def write_tar(path: Path, n: int = 6, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for number in range(n):
            entry = tarfile.TarInfo(f"{number}.png")
            content = png(number)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def reds(name: str) -> list[int]:
    return sorted(load_training_set(name, 8).images[:, 0, 0, 0].tolist())


class TestNothingIsLeftOut:
    def test_linked_subfolders_are_followed_and_loops_end(self, tmp_path: Path) -> None:
        folder = write_images(tmp_path / "faces")
        write_images(tmp_path / "elsewhere", n=3)
        (folder / "more").symlink_to(tmp_path / "elsewhere")
        (folder / "loop").symlink_to(folder)
        (tmp_path / "elsewhere" / "back").symlink_to(folder)
        stage_dataset("faces", 8, folder)
        assert len(load_training_set("faces", 8)) == 9

    def test_every_usual_suffix_in_any_case(self, tmp_path: Path) -> None:
        folder = tmp_path / "faces"
        folder.mkdir()
        picture = Image.new("RGB", (8, 8), (90, 0, 0))
        for name, kind in (("a.jfif", "jpeg"), ("b.JPE", "jpeg"), ("c.avif", "avif"), ("d.PNG", "png")):
            picture.save(folder / name, kind)
        stage_dataset("faces", 8, folder)
        assert len(load_training_set("faces", 8)) == 4

    def test_links_in_a_tar_are_the_images_that_they_lead_to(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "faces.tar", "w") as tar:
            for name, kind, target in (
                ("b/link.png", tarfile.SYMTYPE, "../a/7.png"),
                ("a/7.png", tarfile.REGTYPE, ""),
                ("hard.png", tarfile.LNKTYPE, "a/7.png"),
                ("chain.png", tarfile.SYMTYPE, "b/link.png"),
            ):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, target
                content = png(7) if kind == tarfile.REGTYPE else b""
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        stage_dataset("faces", 8, tmp_path / "faces.tar")
        assert reds("faces") == [7, 7, 7, 7]

    def test_what_is_no_image_is_named_on_stderr_and_in_the_metadata(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_images(tmp_path / "faces")
        for name in ("more.zip", "notes.txt", ".hidden.png"):
            (folder / name).write_bytes(b"anything")
        os.mkfifo(folder / "pipe.png")
        path = stage_dataset("faces", 8, folder)
        assert "used 6, passed over 4: .hidden.png, more.zip, notes.txt, pipe.png" in capfd.readouterr().err
        metadata = read_metadata(path)
        assert (metadata["n_used"], metadata["n_passed_over"]) == ("6", "4")
        assert json.loads(metadata["passed_over"])[1] == "more.zip"

    def test_a_dangling_link_is_a_damaged_image(self, tmp_path: Path) -> None:
        folder = write_images(tmp_path / "faces")
        (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
        with pytest.raises(InputError, match=r"1 of 7 images .*gone\.png"):
            stage_dataset("faces", 8, folder)

    def test_names_that_are_not_utf8_are_read(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / os.fsdecode(b"f\xff")
        write_images(folder)
        (folder / os.fsdecode(b"\xe9t\xe9.png")).write_bytes(png())
        (folder / os.fsdecode(b"\xe9.txt")).write_bytes(b"")
        stage_dataset("faces", 8, folder)
        assert len(load_training_set("faces", 8)) == 7
        assert "\\udce9.txt" in capfd.readouterr().err

    def test_class_folders_give_labels(self, tmp_path: Path) -> None:
        for name, n in (("cat", 2), ("dog", 3)):
            (tmp_path / "pets" / "all").mkdir(parents=True, exist_ok=True)
            write_images(tmp_path / "pets" / "all" / name, n=n)
        path = stage_dataset("pets", 8, tmp_path / "pets")
        labels = load_training_set("pets", 8).labels
        assert labels is not None
        assert labels.tolist() == [0, 0, 1, 1, 1]
        assert json.loads(read_metadata(path)["classes"]) == ["cat", "dog"]
        write_images(tmp_path / "pets" / "all", n=1)
        stage_dataset("pets", 8, tmp_path / "pets")
        assert load_training_set("pets", 8).labels is None, "an image beside the folders is of no class"

    def test_folders_of_splits_are_no_classes(self, tmp_path: Path) -> None:
        for name in ("train", "test"):
            (tmp_path / "pets").mkdir(exist_ok=True)
            write_images(tmp_path / "pets" / name, n=2)
        stage_dataset("pets", 8, tmp_path / "pets")
        assert load_training_set("pets", 8).labels is None


class TestIdentity:
    def test_a_part_of_a_published_set_is_said_to_be_one(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = stage_dataset("mnist", 28, write_idx(write_idx(tmp_path / "files"), "t10k"))
        assert "mnist is NOT WHOLE" in caplog.text
        assert "20 images of its training split, which has 60,000" in caplog.text
        assert "20 images of its test split, which has 10,000" in caplog.text
        assert (read_metadata(path)["n_expected"], read_metadata(path)["whole"]) == ("60000", "false")
        assert load_training_set("mnist", 28, max_images=5).describe() | {"sha256": ""} == {
            "sha256": "",
            "crop": "squeeze",
            "n_used": 5,
            "n_prepared": 20,
            "n_expected": 60_000,
            "whole": False,
        }

    def test_a_whole_one_is_whole(self, caplog: pytest.LogCaptureFixture) -> None:
        stage_dataset("digits", 8)
        assert load_training_set("digits", 8, max_images=5).describe()["whole"] is True
        assert "NOT WHOLE" not in caplog.text

    def test_idx_files_under_a_name_of_ones_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = write_idx(write_idx(tmp_path / "files"), "t10k")
        stage_dataset("small-mnist", 28, folder)
        data = load_training_set("small-mnist", 28)
        assert torch.equal(data.images[:, 0], torch.from_numpy(GREY))
        assert data.labels is not None
        assert data.labels.tolist() == LABELS.tolist()
        assert data.describe()["whole"]
        assert "NOT WHOLE" not in caplog.text
        stage_dataset("small-mnist", 28, folder, "test")
        assert load_test_images("small-mnist", 28) is not None

    def test_idx_files_of_which_one_has_to_be_named(self, tmp_path: Path) -> None:
        folder = write_idx(write_idx(tmp_path / "files", "a-train"), "b-train")
        with pytest.raises(InputError, match="name the one that is meant"):
            stage_dataset("letters", 28, folder)
        (folder / "b-train-labels-idx1-ubyte.gz").unlink()
        stage_dataset("letters", 28, folder / "b-train-images-idx3-ubyte.gz")
        assert load_training_set("letters", 28).labels is None

    def test_a_test_split_is_never_rebuilt_from_the_training_source(self, tmp_path: Path) -> None:
        stage_dataset("faces", 8, write_images(tmp_path / "train", n=6))
        path = stage_dataset("faces", 8, write_images(tmp_path / "test", n=3), "test")
        before = load_test_images("faces", 8)
        assert before is not None
        whole = before[0]["images"].clone()
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        again = load_test_images("faces", 8)
        assert again is not None
        assert torch.equal(again[0]["images"], whole)
        (tmp_path / "test").rename(tmp_path / "test-is-gone")
        for damaged in (b"", bytes(content)):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match="--test --from PATH"):
                load_test_images("faces", 8)

    def test_the_test_split_at_another_size_comes_from_where_the_first_came_from(self, tmp_path: Path) -> None:
        stage_dataset("faces", 8, write_images(tmp_path / "train", n=6))
        stage_dataset("faces", 8, write_images(tmp_path / "test", n=3), "test")
        test = load_test_images("faces", 16)
        assert test is not None
        assert test[0]["images"].shape == (3, 3, 16, 16)

    def test_the_square_of_a_crop_is_the_central_one_and_other_data(self, tmp_path: Path) -> None:
        (tmp_path / "faces").mkdir()
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[20 : 20 + 178, :, 0] = 200
        Image.fromarray(pixels).save(tmp_path / "faces" / "a.png")
        stage_dataset("faces", 32, tmp_path / "faces")
        stage_dataset("faces", 32, tmp_path / "faces", crop="center")
        squeezed, cropped = load_training_set("faces", 32), load_training_set("faces", 32, crop="center")
        assert set(cropped.images[0, 0].unique().tolist()) == {200}
        assert len(squeezed.images[0, 0].unique()) > 1
        assert squeezed.sha256 != cropped.sha256
        assert load_training_set("faces", 16, crop="center").images.shape == (1, 3, 16, 16)


class TestPixels:
    def test_an_orientation_is_applied(self, tmp_path: Path) -> None:
        (tmp_path / "faces").mkdir()
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:4] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        Image.fromarray(pixels).save(tmp_path / "faces" / "a.png", exif=exif)
        stage_dataset("faces", 8, tmp_path / "faces")
        (image,) = load_training_set("faces", 8).images
        assert (image[0, :, :4] == 0).all()
        assert (image[0, :, 4:] == 255).all()

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_what_is_transparent_is_white(self, tmp_path: Path, mode: str) -> None:
        (tmp_path / "faces").mkdir()
        picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        picture.paste((60, 60, 60, 255), (0, 0, 8, 4))
        options = {"transparency": 0} if mode == "P" else {}
        if mode == "P":
            indexed = Image.new("P", (8, 8), 0)
            indexed.putpalette([0, 0, 0, 60, 60, 60])
            indexed.paste(1, (0, 0, 8, 4))
            picture = indexed
        picture.convert(mode).save(tmp_path / "faces" / "a.png", **options)  # pyright: ignore[reportArgumentType]
        path = stage_dataset("faces", 8, tmp_path / "faces")
        (image,) = load_training_set("faces", 8).images
        assert (image[0, :4] == 60).all()
        assert (image[0, 4:] == 255).all()
        assert read_metadata(path)["transparency"] == "white"


class TestArchivesAreWholeOrRefused:
    @pytest.mark.parametrize("member", [1, 5])
    def test_a_flipped_bit_in_a_tar_header(self, tmp_path: Path, member: int) -> None:
        path = write_tar(tmp_path / "faces.tar")
        with tarfile.open(path) as tar:
            at = tar.getmembers()[member].offset
        content = bytearray(path.read_bytes())
        content[at + 2] ^= 4
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged archive"):
            stage_dataset("faces", 8, path)

    def test_a_tar_that_lacks_its_end_or_has_more_behind_it(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "faces.tar")
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            last = tar.getmembers()[-1]
        for content in (whole[: last.offset], whole[: last.offset_data + 10], whole + whole):
            path.write_bytes(content)
            with pytest.raises(InputError, match="damaged archive"):
                stage_dataset("faces", 8, path)

    @pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
    def test_a_compressed_tar_with_a_bad_checksum(self, tmp_path: Path, mode: str) -> None:
        path = write_tar(tmp_path / "faces.tar", mode=mode)
        stage_dataset("faces", 8, path)
        assert reds("faces") == [0, 1, 2, 3, 4, 5]
        content = bytearray(path.read_bytes())
        content[-5 if mode == "w:gz" else -20] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged archive|no whole zip or tar archive"):
            stage_dataset("faces", 8, path)

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_name_twice(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"faces.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("a.png", png(1))
                archive.writestr("a.png", png(2))
        else:
            write_tar(path)
            with tarfile.open(path, "a") as tar:
                entry = tarfile.TarInfo("0.png")
                entry.size = len(png())
                tar.addfile(entry, io.BytesIO(png()))
        with pytest.raises(InputError, match="twice"):
            stage_dataset("faces", 8, path)

    def test_sizes_are_bounded_before_anything_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        huge = tmp_path / "folder" / "huge.png"
        huge.parent.mkdir()
        with huge.open("wb") as file:
            file.truncate(2**33)
        with pytest.raises(InputError, match=r"huge\.png.* 8,589,934,592 bytes"):
            stage_dataset("faces", 8, huge.parent)
        monkeypatch.setattr(source_module, "LARGEST_FILE", 100_000)
        with zipfile.ZipFile(tmp_path / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb.png", bytes(200_000))
        with tarfile.open(tmp_path / "faces.tar", "w") as tar:
            entry = tarfile.TarInfo("bomb.png")
            entry.size = 200_000
            tar.addfile(entry, io.BytesIO(bytes(200_000)))
        for path in (tmp_path / "faces.zip", tmp_path / "faces.tar"):
            with pytest.raises(InputError, match="200,000 bytes"):
                stage_dataset("faces", 8, path)

    def test_a_sparse_tar_and_a_size_below_zero(self, tmp_path: Path) -> None:
        entry = tarfile.TarInfo("a.png")
        entry.size, entry.type = 512, tarfile.GNUTYPE_SPARSE
        block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
        block[483:495] = b"%011o\0" % 2**40
        checksum = sum(block[:148]) + sum(block[156:512]) + 8 * 32
        block[148:156] = b"%06o\0 " % checksum
        (tmp_path / "sparse.tar").write_bytes(bytes(block) + bytes(512) + bytes(1024))
        negative = tarfile.TarInfo("a.png")
        negative.size = 0
        raw = bytearray(negative.tobuf(tarfile.GNU_FORMAT))
        raw[124:136] = b"\xff" * 10 + b"\xfc\x00"
        raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 8 * 32)
        (tmp_path / "negative.tar").write_bytes(bytes(raw) + bytes(1024))
        for name in ("sparse.tar", "negative.tar"):
            with pytest.raises(InputError, match="damaged archive"):
                stage_dataset("faces", 8, tmp_path / name)

    def test_a_compressed_tar_that_unpacks_to_more_than_the_disk_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "faces.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            entry = tarfile.TarInfo("zeros.png")
            entry.size = 5_000_000
            tar.addfile(entry, io.BytesIO(bytes(5_000_000)))
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4_000_000}))
        with pytest.raises(InputError, match="fills half of what is free"):
            stage_dataset("faces", 8, path)

    def test_a_gz_bomb_of_idx_ends_before_it_is_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = write_idx(tmp_path / "files")
        zeros = gzip.compress(idx_bytes(np.zeros((20, 28, 28), np.uint8)))
        (folder / "train-images-idx3-ubyte.gz").write_bytes(zeros)
        monkeypatch.setattr("harness.data.source.LARGEST_FILE", 10_000)
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz unpacked .* has 15,\d+ bytes"):
            stage_dataset("mnist", 28, folder)


class TestCifarPickles:
    def test_arrays_of_integers_are_read(self) -> None:
        table = np.arange(12, dtype=np.uint8).reshape(3, 4)
        for protocol in (0, 2):
            batch = load_arrays(pickle.dumps({b"data": table, b"labels": [1, 2]}, protocol))
            assert np.array_equal(batch[b"data"].values, table)
        big = np.arange(5, dtype=">i4")
        assert np.array_equal(load_arrays(pickle.dumps(big, 2)).values, big)

    @pytest.mark.parametrize("dtype", ["O", "f8", "U3", "M8[s]", [("a", "u1"), ("b", "O")]])
    def test_arrays_of_anything_else_are_refused(self, tmp_path: Path, dtype: object) -> None:
        self.refuse(tmp_path, pickle.dumps({b"data": np.zeros((2, 2), dtype), b"labels": [0, 1]}, 2))  # pyright: ignore

    def test_a_crafted_dtype_shape_or_memo_is_refused(self, tmp_path: Path) -> None:
        """Numpy's own unpickling of the first ends the process with a segmentation fault."""
        whole = pickle.dumps({b"data": np.zeros((2, 2), np.uint8), b"labels": [0, 1]}, 2)
        assert b"X\x02\x00\x00\x00u1" in whole
        objects = whole.replace(b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00O8")
        shape = whole.replace(b"K\x02K\x02\x86", b"K\x09K\x02\x86")
        assert whole not in (objects, shape)
        memo = b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b"."
        for content in (objects, shape, memo):
            self.refuse(tmp_path, content)

    def refuse(self, folder: Path, content: bytes) -> None:
        for number in range(1, 6):
            (folder / f"data_batch_{number}").write_bytes(content)
        with pytest.raises(InputError, match="no CIFAR-10 batch"):
            stage_dataset("cifar10", 32, folder)


class TestStrangeFiles:
    @pytest.mark.timeout(20)
    def test_a_fifo_is_no_source(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="neither a file nor a folder"):
            stage_dataset("faces", 8, tmp_path / "pipe")

    def test_names_that_are_too_long_name_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no file or folder"):
            stage_dataset("faces", 8, tmp_path / ("x" * 300))


def test_a_tar_of_100_000_images_is_indexed_in_5_s_and_takes_four_processes_no_more_than_one_copy(
    tmp_path: Path,
) -> None:
    path = tmp_path / "many.tar"
    content = png(size=(16, 16)).ljust(1024, b"\0")
    with path.open("wb") as file:
        for number in range(100_000):
            entry = tarfile.TarInfo(f"images/{number:06d}.png")
            entry.size = len(content)
            file.write(entry.tobuf(tarfile.GNU_FORMAT) + content)
        file.write(bytes(1024))
    code = (
        "import resource, time; from pathlib import Path; from harness.data.source import open_source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; started = time.process_time()\n"
        f"source = open_source(Path({str(path)!r})); seconds = time.process_time() - started\n"
        "assert len(source.names) == 100_000 and all(len(source.read(name)) for name in source.names[::7])\n"
        "print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)]
    measured = [tuple(map(float, process.communicate()[0].split())) for process in processes]
    assert max(seconds for seconds, _ in measured) < 5
    assert sum(grown for _, grown in measured) < path.stat().st_size
