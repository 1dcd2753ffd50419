"""Data as people have it: the hub's tables, arrays, WebDatasets, LMDB, folders with a metadata.csv."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.data.cache import read_metadata
from harness.data.sets import TrainingSet
from harness.data.staging import load_test_images, load_training_set, stage_dataset
from harness.errors import InputError

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
