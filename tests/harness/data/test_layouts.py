"""Data as people have it: the hub's tables, arrays, WebDatasets, LMDB, folders with a metadata.csv."""

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.data.cache import read_metadata
from harness.data.sets import TrainingSet
from harness.data.staging import load_test_images, load_training_set, stage_dataset
from harness.errors import InputError
from harness.evaluation.classifier import load_classifier

GREYS = [0, 40, 80, 120, 160, 200]


def png(grey: int, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (grey, 255 - grey, 0)).save(content, form)
    return content.getvalue()


def staged(source: Path, size: int = 8) -> TrainingSet:
    stage_dataset("mine", size, source)
    return load_training_set("mine", size)


def reds(data: TrainingSet) -> list[int]:
    assert data.images.shape[1:] == (3, 8, 8)
    return data.images[:, 0, 0, 0].tolist()


def labels(data: TrainingSet) -> list[int]:
    assert data.labels is not None
    return data.labels.tolist()


def hub_table(
    greys: Sequence[int], labels: Sequence[Any] | None, names: Sequence[str] = (), **columns: Any
) -> pa.Table:
    """As `datasets` writes a feature Image, and a ClassLabel with its names."""
    images = [{"bytes": png(grey), "path": f"{grey}.png"} for grey in greys]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(images, kind), **columns} | ({} if labels is None else {"label": labels}))
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if names else {})


@pytest.mark.usefixtures("empty_cache")
class TestTables:
    def test_a_parquet_file_of_the_hub(self, tmp_path: Path) -> None:
        pq.write_table(hub_table(GREYS, [0, 1, 2, 0, 1, 2], ["cat", "dog", "owl"]), tmp_path / "a.parquet")
        data = staged(tmp_path / "a.parquet")
        assert reds(data) == GREYS
        assert labels(data) == [0, 1, 2, 0, 1, 2]
        (entry,) = (tmp_path / "cache" / "data").glob("*.safetensors")
        assert json.loads(read_metadata(entry)["classes"]) == ["cat", "dog", "owl"]

    def test_a_repositorys_folder_has_its_shards_by_split(self, tmp_path: Path) -> None:
        for name, greys in {"train-00000-of-00002": GREYS[:2], "train-00001-of-00002": GREYS[2:4]}.items():
            (tmp_path / "data").mkdir(exist_ok=True)
            pq.write_table(hub_table(greys, [0] * len(greys)), tmp_path / "data" / f"{name}.parquet")
        pq.write_table(hub_table(GREYS[4:], [-1, -1]), tmp_path / "data" / "test-00000-of-00001.parquet")
        assert reds(staged(tmp_path)) == GREYS[:4]
        stage_dataset("mine", 8, tmp_path, "test")
        found = load_test_images("mine", 8)
        assert found is not None
        assert found[0]["images"][:, 0, 0, 0].tolist() == GREYS[4:]

    @pytest.mark.parametrize("kind", ["stream", "file"])
    def test_an_arrow_file(self, kind: str, tmp_path: Path) -> None:
        table = hub_table(GREYS, ["owl", "cat", "owl", "cat", "owl", "cat"])
        write = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with write(tmp_path / "data.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        data = staged(tmp_path / "data.arrow")
        assert reds(data) == GREYS
        assert labels(data) == [1, 0, 1, 0, 1, 0]

    def test_many_rows_come_in_their_order(self, tmp_path: Path) -> None:
        greys = [index % 250 for index in range(1100)]
        pq.write_table(hub_table(greys, None), tmp_path / "a.parquet", row_group_size=300)
        data = staged(tmp_path / "a.parquet")
        assert reds(data) == greys
        assert data.labels is None

    def test_without_an_image_column_the_columns_are_named(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
        with pytest.raises(
            InputError, match=r"has no column of images.* its columns are text \(string\), label \(int64\)"
        ):
            staged(tmp_path / "a.parquet")

    def test_several_image_columns_are_named(self, tmp_path: Path) -> None:
        table = hub_table(GREYS, None).rename_columns(["before"])
        pq.write_table(table.append_column("after", table["before"]), tmp_path / "a.parquet")
        with pytest.raises(InputError, match="has several columns of images"):
            staged(tmp_path / "a.parquet")

    def test_an_image_that_is_none_is_named_by_its_row(self, tmp_path: Path) -> None:
        images = [{"bytes": png(3)}, {"bytes": b"no image"}, {"bytes": None}]
        pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"2 of 3 images .* a.parquet row 1 .*; a.parquet row 2 \(it has no bytes"):
            staged(tmp_path / "a.parquet")

    @pytest.mark.parametrize(
        ("column", "said"),
        [([0, 1, None, 0, 1, 0], "1 of 6 images have no label"), ([0.5] * 6, "not 0.5"), ([-2] * 6, "not -2")],
    )
    def test_labels_that_are_none_are_refused(self, column: list[Any], said: str, tmp_path: Path) -> None:
        pq.write_table(hub_table(GREYS, column), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=said):
            staged(tmp_path / "a.parquet")

    @pytest.mark.parametrize("suffix", ["parquet", "arrow"])
    def test_a_truncated_file_is_refused(self, suffix: str, tmp_path: Path) -> None:
        pq.write_table(hub_table(GREYS, None), tmp_path / "whole")
        (tmp_path / f"a.{suffix}").write_bytes((tmp_path / "whole").read_bytes()[:-40])
        with pytest.raises(InputError, match=rf"a.{suffix} is no whole {suffix.capitalize()} file"):
            staged(tmp_path / f"a.{suffix}")
        assert not list((tmp_path / "cache").rglob("*.safetensors"))


def pixels(greys: Sequence[int] = GREYS) -> np.ndarray:
    """(N, 8, 8, 3) uint8."""
    colours = np.array([(grey, 255 - grey, 0) for grey in greys], np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(greys), 8, 8, 3)).copy()


@pytest.mark.usefixtures("empty_cache")
class TestArrays:
    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize("names", [("images", "labels"), ("arr_0", "arr_1"), ("x_train", "y_train")])
    def test_images_and_labels_by_their_names(self, names: tuple[str, str], compress: bool, tmp_path: Path) -> None:
        save = np.savez_compressed if compress else np.savez
        save(tmp_path / "a.npz", **{names[0]: pixels(), names[1]: np.arange(6)})  # pyright: ignore[reportArgumentType]
        data = staged(tmp_path / "a.npz")
        assert (reds(data), labels(data)) == (GREYS, [0, 1, 2, 3, 4, 5])

    def test_adms_samples_have_no_labels(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "VIRTUAL_imagenet64.npz", pixels())
        data = staged(tmp_path / "VIRTUAL_imagenet64.npz")
        assert (reds(data), data.labels) == (GREYS, None)

    def test_medmnist_has_both_splits_and_labels_in_a_column(self, tmp_path: Path) -> None:
        arrays = {f"{split}_images": pixels(GREYS[:n]) for split, n in (("train", 6), ("val", 2), ("test", 3))}
        arrays |= {f"{split}_labels": np.arange(n)[:, None] for split, n in (("train", 6), ("val", 2), ("test", 3))}
        np.savez(tmp_path / "pathmnist.npz", **arrays)  # pyright: ignore[reportArgumentType]
        data = staged(tmp_path / "pathmnist.npz")
        assert (reds(data), labels(data)) == (GREYS, [0, 1, 2, 3, 4, 5])
        stage_dataset("mine", 8, tmp_path / "pathmnist.npz", "test")
        found = load_test_images("mine", 8)
        assert found is not None
        assert found[0]["images"][:, 0, 0, 0].tolist() == GREYS[:3]

    @pytest.mark.parametrize(("scale", "dtype"), [(1, np.float32), (255, np.float64), (255, np.float16)])
    @pytest.mark.parametrize("channels_first", [False, True])
    def test_floats_and_channels_in_front(self, scale: int, dtype: Any, channels_first: bool, tmp_path: Path) -> None:
        array = (pixels() / scale).astype(dtype)
        np.save(tmp_path / "a.npy", array.transpose(0, 3, 1, 2) if channels_first else array)
        assert reds(staged(tmp_path / "a.npy")) == GREYS

    def test_grey_images_have_one_channel(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", pixels()[..., 0])
        assert staged(tmp_path / "a.npy").images[:, :, 0, 0].tolist() == [[grey] for grey in GREYS]

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (pixels().astype(np.float32) / 127.5 - 1, r"floats from -1 to 1, where \[0, 1\] or \[0, 255\] is meant"),
            (pixels().astype(np.float32) * 257, "floats from 0 to 65535"),
            (np.full((2, 8, 8), np.nan), "floats from nan to nan"),
            (pixels().astype(np.int64), r"not int64 \(6, 8, 8, 3\)"),
            (np.zeros((2, 8, 8, 4), np.uint8), r"with 1 or 3 channels; not uint8 \(2, 8, 8, 4\)"),
            (np.zeros((0, 8, 8), np.uint8), "holds no images"),
        ],
    )
    def test_what_is_no_array_of_images_is_refused(self, array: np.ndarray, said: str, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InputError, match=said):
            staged(tmp_path / "a.npy")

    def test_arrays_that_do_not_fit_or_have_other_names_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=pixels(), labels=np.arange(5))
        with pytest.raises(InputError, match="6 images but 5 labels"):
            staged(tmp_path / "a.npz")
        np.savez(tmp_path / "a.npz", images=pixels(), labels=np.zeros((6, 14), int))
        with pytest.raises(InputError, match=r"labels are of shape \(N,\) or \(N, 1\), not \(6, 14\)"):
            staged(tmp_path / "a.npz")
        np.savez(tmp_path / "a.npz", faces=pixels(), people=np.arange(6))
        with pytest.raises(
            InputError, match=r"holds faces uint8 \(6, 8, 8, 3\), people int64 \(6,\); images are called"
        ):
            staged(tmp_path / "a.npz")

    def test_a_pickle_or_half_a_file_is_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
        with pytest.raises(InputError, match="no whole npy file of numbers"):
            staged(tmp_path / "a.npy")
        np.save(tmp_path / "a.npy", pixels())
        (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-50])
        with pytest.raises(InputError, match="no whole npy file of numbers"):
            staged(tmp_path / "a.npy")


def write_shard(path: Path, greys: Sequence[int], **beside: Any) -> None:
    """A WebDataset's tar: beside the image of each sample what is given, by suffix."""
    with tarfile.open(path, "w") as tar:
        for grey in greys:
            for suffix, content in {"png": png(grey), **{key: make(grey) for key, make in beside.items()}}.items():
                info = tarfile.TarInfo(f"sample{grey:03}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.mark.usefixtures("empty_cache")
class TestWebDatasets:
    def test_a_number_in_a_cls_is_the_label(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_shard(tmp_path / "a.tar", GREYS, cls=lambda grey: b"%d\n" % (grey // 80))
        data = staged(tmp_path / "a.tar")
        assert (reds(data), labels(data)) == (GREYS, [0, 0, 1, 1, 2, 2])
        assert "passed over" not in capfd.readouterr().err

    def test_so_is_the_label_of_a_json_a_number_or_a_word(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "a.tar", GREYS, json=lambda grey: json.dumps({"label": "ab"[grey > 100]}).encode())
        assert labels(staged(tmp_path / "a.tar")) == [0, 0, 0, 1, 1, 1]

    def test_captions_are_no_labels(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_shard(tmp_path / "a.tar", GREYS, json=lambda _: b'{"caption": "a face"}')
        assert staged(tmp_path / "a.tar").labels is None
        assert "passed over 6" in capfd.readouterr().err

    def test_a_folder_of_shards_is_one_data_set_for_each_split(self, tmp_path: Path) -> None:
        for name, greys in {"train-000": GREYS[:2], "train-001": GREYS[2:4], "test-000": GREYS[4:]}.items():
            write_shard(tmp_path / f"{name}.tar", greys, cls=lambda grey: b"%d" % (grey // 40))
        data = staged(tmp_path)
        assert (reds(data), labels(data)) == (GREYS[:4], [0, 1, 2, 3])
        stage_dataset("mine", 8, tmp_path, "test")
        found = load_test_images("mine", 8)
        assert found is not None
        assert found[0]["images"][:, 0, 0, 0].tolist() == GREYS[4:]

    def test_samples_without_a_label_among_others_are_refused(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "a.tar", GREYS, cls=lambda grey: b"1" if grey else b"")
        with pytest.raises(InputError, match="1 of 6 images have no label, the first of them image 0"):
            staged(tmp_path / "a.tar")

    def test_a_json_that_is_none_is_named(self, tmp_path: Path) -> None:
        write_shard(tmp_path / "a.tar", GREYS, json=lambda _: b"{")
        with pytest.raises(InputError, match=r"sample000.json holds no label"):
            staged(tmp_path / "a.tar")


@pytest.mark.usefixtures("empty_cache")
class TestMetadata:
    def write(self, folder: Path, text: str) -> Path:
        (folder / "faces" / "old").mkdir(parents=True)
        for grey in GREYS:
            (folder / "faces" / ("old" if grey > 100 else "") / f"{grey}.png").write_bytes(png(grey))
        (folder / "faces" / "metadata.csv").write_text(text)
        return folder / "faces"

    def test_its_table_says_which_images_are_used_and_what_they_are(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        rows = ["0.png,cat", "40.png,dog", "old/120.png,cat", "old/200.png,dog"]
        data = staged(self.write(tmp_path, "\ufefffile_name,label\n" + "\n".join(rows)))
        assert (reds(data), labels(data)) == ([0, 40, 120, 200], [0, 1, 0, 1])
        said = capfd.readouterr().err
        assert "used 4, passed over 2: 80.png, old/160.png" in said
        assert "2 classes: cat, dog" in said

    def test_numbers_are_labels_as_they_are(self, tmp_path: Path) -> None:
        assert labels(staged(self.write(tmp_path, "file_name,target\n40.png,7\n0.png,3\n"))) == [3, 7]

    def test_an_image_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path, "file_name,label\n0.png,1\n41.png,1\n")
        with pytest.raises(InputError, match=r"metadata.csv in .* names 41.png, which is no image there"):
            staged(folder)

    def test_a_table_of_something_else_is_passed_over(self, tmp_path: Path) -> None:
        data = staged(self.write(tmp_path, "id,age\n0.png,1\n"))
        assert (len(data), data.labels) == (6, None)


@pytest.mark.usefixtures("empty_cache")
class TestLMDB:
    def write(self, folder: Path, values: dict[bytes, bytes]) -> Path:
        with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key, value)
        return folder

    def test_lsuns_form(self, tmp_path: Path) -> None:
        values = {b"%040x" % grey: png(grey, form="WEBP") for grey in GREYS}
        data = staged(self.write(tmp_path / "bedroom_train_lmdb", values))
        assert (len(data), data.labels) == (6, None)
        assert reds(data) == pytest.approx(GREYS, abs=4)  # WebP loses some

    def test_a_value_that_is_no_image_is_named_by_its_key(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "lmdb", {b"a": png(0), b"length": b"1"})
        with pytest.raises(InputError, match=r"1 of 2 images .* key length"):
            staged(folder)

    def test_a_truncated_one_is_refused_and_ends_nothing(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "lmdb", {b"%d" % n: png(n, (200, 200), "BMP") for n in range(20)})
        content = (folder / "data.mdb").read_bytes()
        (folder / "data.mdb").write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match="is truncated"):
            staged(folder)
        (folder / "data.mdb").write_bytes(bytes(8192))
        with pytest.raises(InputError, match="is no whole LMDB"):
            staged(folder)

    def test_without_its_library_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.write(tmp_path / "lmdb", {b"a": png(0)})
        monkeypatch.setitem(sys.modules, "lmdb", None)
        with pytest.raises(InputError, match=r"pip install 'aaebench\[lmdb\]'"):
            staged(folder)


@pytest.mark.usefixtures("empty_cache")
class TestPixelsAsAViewerShowsThem:
    @pytest.mark.parametrize("where", ["folder", "parquet"])
    def test_palettes_cmyk_sixteen_bits_transparency_and_orientation(self, where: str, tmp_path: Path) -> None:
        red = (200, 40, 0)
        plain = Image.new("RGB", (8, 8), red)
        turned = Image.new("RGB", (8, 8), "blue")
        turned.paste(red, (0, 4, 8, 8))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: what lies below is then on the left
        half = Image.new("RGBA", (8, 8), (*red, 255))
        half.paste((0, 0, 0, 0), (4, 0, 8, 8))
        pictures: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
            "a": (plain, "PNG", {}),
            "b": (plain.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", {}),
            "c": (plain.convert("CMYK"), "TIFF", {}),
            "d": (half, "PNG", {}),
            "e": (turned, "PNG", {"exif": exif}),
            "f": (Image.fromarray(np.full((8, 8), 200 * 257, np.uint16)), "PNG", {}),
        }
        (tmp_path / "faces").mkdir()
        contents = []
        for name, (picture, form, options) in pictures.items():
            picture.save(tmp_path / "faces" / f"{name}.{form.lower()}", form, **options)
            contents.append({"bytes": (tmp_path / "faces" / f"{name}.{form.lower()}").read_bytes()})
        pq.write_table(pa.table({"image": contents}), tmp_path / "faces.parquet")
        data = staged(tmp_path / ("faces" if where == "folder" else "faces.parquet"))
        left = data.images[:, :, 0, 0].tolist()
        assert left[:5] == [list(red)] * 5
        assert data.images[3:5, :, 0, 7].tolist() == [[255, 255, 255], [0, 0, 255]]
        assert left[5] == [200, 200, 200]

    def test_pixels_of_an_unknown_range_are_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "faces").mkdir()
        Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "faces" / "a.tiff")
        with pytest.raises(InputError, match=r"a.tiff \(its pixels are of mode F, whose range is unknown"):
            staged(tmp_path / "faces")


def test_labels_of_a_parquet_file_give_the_domain_extractor(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.evaluation.classifier.STEPS", 4)  # a training as it is, but for its length
    greys = [(7 * index) % 250 for index in range(40)]
    pq.write_table(hub_table(greys, [grey % 3 for grey in greys]), tmp_path / "a.parquet")
    stage_dataset("mine", 8, tmp_path / "a.parquet")
    classifier, _ = load_classifier("mine", 8)
    assert classifier.head.out_features == 3
    assert len(list(empty_cache.glob("weights/domain-mine-*.safetensors"))) == 1
