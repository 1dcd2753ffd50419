"""Staging reads what data sets are published as, says what is wrong with damaged files, and survives company."""

import gzip
import pickle
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.staging import load_test_images, load_training_set, stage_dataset
from harness.errors import InputError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 10


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_idx(folder: Path, prefix: str = "train", compress: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3-ubyte", GREY), ("labels-idx1-ubyte", LABELS)):
        content = idx_bytes(array)
        file = folder / f"{prefix}-{name}{'.gz' if compress else ''}"
        file.write_bytes(gzip.compress(content) if compress else content)
    return folder


def write_images(folder: Path, n: int = 6, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(n):
        pixels = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.usefixtures("empty_cache")
class TestFormats:
    @pytest.mark.parametrize("compress", [True, False])
    @pytest.mark.parametrize(("name", "prefix"), [("mnist", "train"), ("emnist", "emnist-balanced-train")])
    def test_idx(self, tmp_path: Path, name: str, prefix: str, compress: bool) -> None:
        stage_dataset(name, 28, write_idx(tmp_path / "files", prefix, compress))
        data = load_training_set(name, 28)
        assert torch.equal(data.images[:, 0], torch.from_numpy(GREY))
        assert data.labels is not None
        assert data.labels.tolist() == LABELS.tolist()

    def test_a_test_split_comes_with_the_published_data_and_is_named_for_others(self, tmp_path: Path) -> None:
        folder = write_idx(write_idx(tmp_path / "files"), "t10k")
        stage_dataset("mnist", 28, folder)
        test = load_test_images("mnist", 28)
        assert test is not None
        assert torch.equal(test[0]["images"][:, 0], torch.from_numpy(GREY))
        stage_dataset("mnist", 28, write_idx(tmp_path / "without_test"))
        assert load_test_images("mnist", 28) is None, "the test split of another source is not kept"
        stage_dataset("emnist", 28, write_idx(tmp_path / "train_only", "emnist-balanced-train"))
        assert load_test_images("emnist", 28) is None
        stage_dataset("faces", 32, write_images(tmp_path / "train"))
        assert load_test_images("faces", 32) is None
        stage_dataset("faces", 32, write_images(tmp_path / "test", n=3), "test")
        test = load_test_images("faces", 32)
        assert test is not None
        assert len(test[0]["images"]) == 3
        assert len(load_training_set("faces", 32)) == 6

    def test_a_single_idx_file_stands_for_its_folder(self, tmp_path: Path) -> None:
        folder = write_idx(tmp_path / "files")
        stage_dataset("mnist", 28, folder / "train-images-idx3-ubyte.gz")
        assert len(load_training_set("mnist", 28)) == 20

    @pytest.mark.parametrize("form", ["pickles", "tar", "binary"])
    def test_cifar10(self, tmp_path: Path, form: str) -> None:
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        pixels = RANDOM.integers(0, 256, (5, 4, 3072), dtype=np.uint8)
        for number in range(5):
            if form == "binary":
                records = np.concatenate([np.full((4, 1), number, np.uint8), pixels[number]], axis=1)
                (folder / f"data_batch_{number + 1}.bin").write_bytes(records.tobytes())
            else:
                batch = {b"data": pixels[number], b"labels": [number] * 4, b"batch_label": b"training"}
                (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch, protocol=2))
        source = folder
        if form == "tar":
            source = tmp_path / "cifar-10-python.tar.gz"
            with tarfile.open(source, "w:gz") as tar:
                tar.add(folder, arcname=folder.name)
        stage_dataset("cifar10", 32, source)
        data = load_training_set("cifar10", 32)
        assert torch.equal(data.images, torch.from_numpy(pixels.reshape(-1, 3, 32, 32)))
        assert data.labels is not None
        assert data.labels.tolist() == [number for number in range(5) for _ in range(4)]

    @pytest.mark.parametrize("form", ["folder", "zip", "tar"])
    def test_any_images_under_a_new_name(self, tmp_path: Path, form: str) -> None:
        folder = write_images(tmp_path / "faces")
        source = folder
        if form == "zip":
            source = tmp_path / "faces.zip"
            with zipfile.ZipFile(source, "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, f"deep/er/{file.name}")
        elif form == "tar":
            source = tmp_path / "faces.tar"
            with tarfile.open(source, "w") as tar:
                tar.add(folder, arcname="faces")
        stage_dataset("faces", 64, source)
        data = load_training_set("faces", 64)
        assert data.images.shape == (6, 3, 64, 64)
        assert data.labels is None
        first = Image.open(folder / "000.png").resize((64, 64), Image.Resampling.BILINEAR)
        difference = data.images[0].permute(1, 2, 0).numpy().astype(int) - np.asarray(first).astype(int)
        assert np.abs(difference).max() <= 1

    def test_a_folder_of_grey_images_has_one_channel(self, tmp_path: Path) -> None:
        stage_dataset("scans", 32, write_images(tmp_path / "scans", mode="L"))
        assert load_training_set("scans", 32).images.shape == (6, 1, 32, 32)

    def test_sixteen_bit_images_keep_their_greys(self, tmp_path: Path) -> None:
        (tmp_path / "scans").mkdir()
        ramp = np.linspace(0, 65535, 32 * 32, dtype=np.uint16).reshape(32, 32)
        Image.fromarray(ramp).save(tmp_path / "scans" / "ramp.png")
        (tmp_path / "scans" / "._ramp.png").write_bytes(b"what macOS leaves beside a file")
        stage_dataset("scans", 32, tmp_path / "scans")
        images = load_training_set("scans", 32).images
        assert images.shape == (1, 1, 32, 32)
        assert np.abs(images[0, 0].numpy() - ramp / 257).max() <= 0.5

    def test_another_size_is_prepared_from_where_the_first_came_from(self, tmp_path: Path) -> None:
        stage_dataset("faces", 32, write_images(tmp_path / "faces"))
        assert load_training_set("faces", 16).images.shape == (6, 3, 16, 16)

    def test_debians_fashion_mnist_is_found_by_itself(self, fashion_mnist: Path) -> None:
        stage_dataset("fashion_mnist", 28)
        assert len(load_training_set("fashion_mnist", 28)) == 60000


class TestBadFiles:
    def damage(self, folder: Path, what: str) -> str:
        images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
        content = images.read_bytes()
        if what == "truncated":
            images.write_bytes(content[:-10])
        elif what == "magic":
            images.write_bytes(b"\x89PNG" + content[4:])
        elif what == "header":
            images.write_bytes(content[:6])
        elif what == "labels of another set":
            labels.write_bytes(idx_bytes(LABELS[:5]))
        elif what == "missing":
            labels.unlink()
        return what

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            ("truncated", "truncated"),
            ("magic", "starts with 89504e47, not with idx's 00000803"),
            ("header", "truncated"),
            ("labels of another set", "20 images but 5 labels"),
            ("missing", "has no file train-labels*idx1-ubyte*"),
        ],
    )
    def test_idx(self, tmp_path: Path, empty_cache: Path, what: str, message: str) -> None:
        folder = write_idx(tmp_path / "files", compress=False)
        self.damage(folder, what)
        with pytest.raises(InputError) as error:
            stage_dataset("mnist", 28, folder)
        assert message in str(error.value)
        assert not list(empty_cache.rglob("*.safetensors")), "nothing is written"

    def test_a_truncated_gz(self, tmp_path: Path, empty_cache: Path) -> None:
        folder = write_idx(tmp_path / "files")
        file = folder / "train-images-idx3-ubyte.gz"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz .* truncated or damaged"):
            stage_dataset("mnist", 28, folder)

    def test_unreadable_images_are_named(self, tmp_path: Path, empty_cache: Path) -> None:
        folder = write_images(tmp_path / "faces")
        (folder / "002.png").write_bytes(b"no image")
        (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:200])
        with pytest.raises(InputError, match=r"2 of 6 images .*002\.png.*004\.png"):
            stage_dataset("faces", 32, folder)
        assert not list(empty_cache.rglob("*.safetensors"))

    def test_an_empty_folder(self, tmp_path: Path, empty_cache: Path) -> None:
        (tmp_path / "faces").mkdir()
        with pytest.raises(InputError, match="holds no images"):
            stage_dataset("faces", 32, tmp_path / "faces")

    def test_a_damaged_archive(self, tmp_path: Path, empty_cache: Path) -> None:
        folder = write_images(tmp_path / "faces")
        archive = tmp_path / "faces.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder)
        archive.write_bytes(archive.read_bytes()[:2000])
        with pytest.raises(InputError, match="damaged archive"):
            stage_dataset("faces", 32, archive)

    def test_a_truncated_zip_does_not_stand_for_its_folder(self, tmp_path: Path, empty_cache: Path) -> None:
        write_images(tmp_path / "holiday")
        archive = tmp_path / "faces.zip"
        with zipfile.ZipFile(archive, "w") as whole:
            whole.write(tmp_path / "holiday" / "000.png")
        archive.write_bytes(archive.read_bytes()[:-30])
        with pytest.raises(InputError, match="no whole zip or tar archive"):
            stage_dataset("faces", 32, archive)

    def test_embedded_data_take_no_source(self, tmp_path: Path, empty_cache: Path) -> None:
        with pytest.raises(InputError, match="is embedded"):
            stage_dataset("digits", 32, write_images(tmp_path / "faces"))

    def test_a_name_is_not_another_names_beginning(self, tmp_path: Path, empty_cache: Path) -> None:
        stage_dataset("faces-hq", 32, write_images(tmp_path / "faces"))
        with pytest.raises(InputError, match="unknown data set 'faces'"):
            load_training_set("faces", 32)

    def test_a_pickle_that_would_run_code_is_refused(self, tmp_path: Path, empty_cache: Path) -> None:
        trap = tmp_path / "trapped"

        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return Path.touch, (trap,)  # pyright: ignore[reportReturnType]

        for number in range(1, 6):
            (tmp_path / f"data_batch_{number}").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match="no CIFAR-10 batch"):
            stage_dataset("cifar10", 32, tmp_path)
        assert not trap.exists()

    def test_unknown_and_unstaged_names(self, empty_cache: Path) -> None:
        with pytest.raises(InputError, match=r"did you mean fashion_mnist\?"):
            load_training_set("fashion_mist", 32)
        with pytest.raises(InputError, match="aaebench stage --dataset mnist --image-size 32"):
            load_training_set("mnist", 32)
        assert not empty_cache.exists()

    def test_colour_images_in_one_channel(self, tmp_path: Path, empty_cache: Path) -> None:
        stage_dataset("faces", 32, write_images(tmp_path / "faces"))
        with pytest.raises(InputError, match="set channels = 3"):
            load_training_set("faces", 32, channels=1)

    def test_a_bad_source_does_not_replace_what_was_staged(self, tmp_path: Path, empty_cache: Path) -> None:
        path = stage_dataset("mnist", 28, write_idx(tmp_path / "files"))
        before = path.read_bytes()
        with pytest.raises(InputError):
            stage_dataset("mnist", 28, write_images(tmp_path / "faces"))
        assert path.read_bytes() == before


def test_two_downloads_at_once_are_one(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's downloader replaced by one that takes its time: there is no internet to download from."""
    import torchvision.datasets  # noqa: PLC0415 (slow to import)

    calls = []

    def download(folder: Path, download: bool) -> None:
        calls.append(folder)
        time.sleep(0.3)
        folder.mkdir(parents=True)
        write_idx(folder)

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    with ThreadPoolExecutor() as pool:
        paths = list(pool.map(lambda _: stage_dataset("mnist", 28), range(3)))
    assert len(calls) == 1
    assert len(set(paths)) == 1
