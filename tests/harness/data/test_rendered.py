"""dSprites' npz and 3D Shapes' HDF5 are staged with their factors; what does not fit is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.bundle import load_bundle, save_bundle
from harness.data.cache import cache_folder
from harness.data.staging import load_training_set, stage_dataset
from harness.errors import InputError

h5py = pytest.importorskip("h5py")
RANDOM = np.random.default_rng(0)
N = 24
MASKS = RANDOM.integers(0, 2, (N, 16, 16), dtype=np.uint8)
COLOURS = RANDOM.integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
GRID = np.stack(np.meshgrid([1], [1, 2, 3], [0.5, 1.0], [0.0, 3.14], [0.0, 1.0], [0.5], indexing="ij"), -1).reshape(
    -1, 6
)


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **({"imgs": MASKS, "latents_values": GRID} | arrays))
    return path


def write_hdf5(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, content in ({"images": COLOURS, "labels": GRID} | datasets).items():
            file[name] = content
    return path


@pytest.mark.usefixtures("empty_cache")
class TestDSprites:
    def test_masks_become_black_and_white_and_factors_keep_their_values(self, tmp_path: Path) -> None:
        metadata = np.array({"author": "a pickle that nobody reads"}, dtype=object)
        stage_dataset("dsprites", 16, write_npz(tmp_path / "dsprites.npz", metadata=metadata))
        data = load_training_set("dsprites", 16)
        assert torch.equal(data.images[:, 0], torch.from_numpy(MASKS * 255))
        assert data.factors is not None
        assert data.factors.names == ["color", "shape", "scale", "orientation", "posX", "posY"]
        for factor, numbers, column in zip(data.factors.factors, data.factors.numbers.T, GRID.T, strict=True):
            assert [factor.values[number] for number in numbers] == column.tolist()

    def test_images_of_ones_own_name_their_factors(self, tmp_path: Path) -> None:
        own = {"imgs": COLOURS, "latents_values": GRID[:, 1:3], "latents_names": np.array(["kind", "size"])}
        stage_dataset("mine", 8, write_npz(tmp_path / "mine.npz", **own))
        data = load_training_set("mine", 8)
        assert data.images.shape == (N, 3, 8, 8)
        assert data.factors is not None
        assert [(factor.name, factor.values) for factor in data.factors.factors] == [
            ("kind", (1.0, 2.0, 3.0)),
            ("size", (0.5, 1.0)),
        ]

    @pytest.mark.parametrize(
        ("arrays", "reason"),
        [
            ({"latents_values": GRID[:-1]}, r"factors of shape \(23, 6\) do not fit 24 images"),
            ({"latents_values": GRID[:, 0]}, "have no names"),
            ({"latents_values": GRID[:, :2]}, "have no names"),
            (
                {"latents_values": np.where(GRID[:, [3]] * [0, 0, 0, 0, 1, 0] > 0, np.nan, GRID)},
                "12 of their 144 values are not; the first is in row 2, counted from 0: posX is nan",
            ),
            ({"latents_values": np.where(GRID == 3.14, -np.inf, GRID)}, "orientation is -inf"),
            ({"latents_values": GRID.astype(str)}, "factors have to be numbers, not <U"),
            ({"latents_names": np.array(["a"] * 6)}, "different names"),
            ({"latents_names": np.array(["a", "b"])}, "6 factors need as many different names, and have 2"),
            ({"imgs": MASKS.astype(np.float32)}, "images are uint8"),
            ({"imgs": MASKS[0]}, "do not fit 16 images"),
        ],
    )
    def test_factors_that_do_not_fit_the_images_are_refused(
        self, tmp_path: Path, arrays: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(InputError, match=reason):
            stage_dataset("dsprites", 16, write_npz(tmp_path / "dsprites.npz", **arrays))
        assert not list(cache_folder().glob("data/*.safetensors"))

    def test_an_npz_without_factors_says_what_it_holds(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "images.npz", imgs=MASKS)
        with pytest.raises(InputError, match="holds imgs; images are `imgs`, and factors `latents_values`"):
            stage_dataset("mine", 16, tmp_path / "images.npz")

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "whole.npz", imgs=MASKS, latents_values=GRID)
        content = bytearray((tmp_path / "whole.npz").read_bytes())
        content[content.index(MASKS.tobytes()[:64]) + 20] ^= 1
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            stage_dataset("dsprites", 16, tmp_path / "damaged.npz")

    def test_factors_travel_in_a_bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stage_dataset("dsprites", 16, write_npz(tmp_path / "dsprites.npz"))
        here = load_training_set("dsprites", 16).factors
        bundle = save_bundle(tmp_path / "bundle.tar")
        monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "there"))
        load_bundle(bundle)
        there = load_training_set("dsprites", 16).factors
        assert here is not None
        assert there is not None
        assert there.factors == here.factors
        assert torch.equal(there.numbers, here.numbers)


@pytest.mark.usefixtures("empty_cache")
class Test3DShapes:
    def test_colour_images_with_their_six_factors(self, tmp_path: Path) -> None:
        stage_dataset("shapes3d", 16, write_hdf5(tmp_path / "3dshapes.h5"))
        data = load_training_set("shapes3d", 16)
        assert torch.equal(data.images.permute(0, 2, 3, 1), torch.from_numpy(COLOURS))
        assert data.factors is not None
        assert data.factors.names == ["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"]
        assert data.factors.factors[1].values == (1.0, 2.0, 3.0)

    def test_factors_that_do_not_fit_the_images_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="do not fit 24 images"):
            stage_dataset("shapes3d", 16, write_hdf5(tmp_path / "3dshapes.h5", labels=GRID[1:]))

    def test_a_file_of_something_else_is_refused(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["weights"] = GRID
        with pytest.raises(InputError, match="holds weights; 3D Shapes has `images` and `labels`"):
            stage_dataset("shapes3d", 16, tmp_path / "other.h5")
        (tmp_path / "cut.h5").write_bytes(write_hdf5(tmp_path / "3dshapes.h5").read_bytes()[:5000])
        with pytest.raises(InputError, match="no whole HDF5 file"):
            stage_dataset("shapes3d", 16, tmp_path / "cut.h5")

    def test_without_h5py_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = write_hdf5(tmp_path / "3dshapes.h5")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(InputError, match=r"aaebench\[hdf5\]"):
            stage_dataset("shapes3d", 16, file)
