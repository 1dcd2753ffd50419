"""`aaebench score`: on the same files as clean-fid, on several processes, on bad input."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image

from harness.commands import call, score
from harness.errors import InputError
from harness.evaluation import load_protocol, score_images
from harness.evaluation.extractors import build_extractor
from harness.evaluation.files import ImageArray, open_images
from harness.evaluation.score import _with_extractor
from tests.harness.evaluation.test_extractors import MeanColour
from tests.harness.launch.test_processes import finish, launch
from tests.harness.test_train import PATIENCE, ROOT

DOMAIN = ("--extractor", "domain-fashion_mnist")


def write_png(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Coloured noise, smooth in different directions: real and fake, of two sizes."""
    random, root = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    real = random.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    fake = random.integers(40, 220, (90, 4, 20, 3), dtype=np.uint8).repeat(10, axis=1).repeat(2, axis=2)
    return write_png(root / "real", real), write_png(root / "fake", fake)


def run_score(real: Path, fake: Path, *arguments: str, num_processes: int = 1) -> dict[str, Any]:
    command = ("-m", "aaebench", "score", "--real", str(real), "--fake", str(fake), *arguments)
    return json.loads(finish(launch(None, num_processes, *command)))


class TestParity:
    @pytest.fixture(scope="class")
    @classmethod
    def theirs(cls, folders: tuple[Path, Path], inception_file: Path) -> dict[str, float]:
        """clean-fid's own functions on the same files and weights."""
        network = InceptionV3W(str(inception_file.parent), download=False)
        options: dict[str, Any] = {"num_workers": 0, "device": torch.device("cpu"), "verbose": False}
        paths: Any = [str(folder) for folder in folders]
        features = [cleanfid.get_folder_features(path, network, **options) for path in paths]
        return {
            "fid": float(
                cleanfid.compute_fid(str(folders[0]), str(folders[1]), custom_feat_extractor=network, **options)
            ),
            "kid": cleanfid.kernel_distance(*features, num_subsets=1),
        }

    @pytest.mark.filterwarnings("ignore:The `disp` argument")
    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_fid_and_kid_equal_clean_fids(
        self, folders: tuple[Path, Path], inception_file: Path, theirs: dict[str, float], num_processes: int
    ) -> None:
        ours = run_score(*folders, "--extractor", str(inception_file), num_processes=num_processes)
        assert ours["fid"] == pytest.approx(theirs["fid"], rel=1e-4)
        assert ours["kid"] == pytest.approx(theirs["kid"], rel=1e-3)
        assert (ours["n_real"], ours["n_fake"], ours["resize"]) == (90, 90, "clean, 299 px")


def test_one_two_and_four_processes_score_the_same(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Each with a cache of its own, so that each computes the reference too."""
    results = []
    for n in (1, 2, 4):
        os.environ["AAEBENCH_CACHE"], before = str(tmp_path / f"cache{n}"), os.environ["AAEBENCH_CACHE"]
        try:
            results.append(run_score(*folders, *DOMAIN, num_processes=n))
        finally:
            os.environ["AAEBENCH_CACHE"] = before
    one, *others = ({f"floor of {k}": v for k, v in r.pop("floor")["split_half"].items()} | r for r in results)
    for result in others:
        for name, value in one.items():
            assert result[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


class TestFormats:
    def test_a_folder_a_zip_and_an_npz_of_the_same_images(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        real, fake = folders
        with zipfile.ZipFile(tmp_path / "fake.zip", "w") as archive:
            for file in sorted(fake.iterdir()):
                archive.write(file, file.name)
        np.savez(tmp_path / "fake.npz", np.stack([np.asarray(Image.open(file)) for file in sorted(fake.iterdir())]))
        results = [
            score_images(real, path, load_protocol("clean"), DOMAIN[1])
            for path in (fake, tmp_path / "fake.zip", tmp_path / "fake.npz")
        ]
        fids = [float(str(result["fid"])) for result in results]
        assert fids[1:] == pytest.approx([fids[0], fids[0]], rel=1e-9)
        assert len({str(result["protocol_id"]) for result in results}) == 1

    def test_images_of_many_sizes_and_channels_are_scored_together(
        self, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        mixed = tmp_path / "mixed"
        shutil.copytree(folders[1], mixed)
        for number, side in enumerate((20, 33, 64)):
            Image.new("L", (side, side), 100).save(mixed / f"grey{number}.png")
        result = _score(folders[0], mixed)
        assert result["n_fake"] == 93
        assert "real has 0 grey and 90 colour, fake has 3 grey and 90 colour images: grey ones count as" in caplog.text

    def test_a_set_against_itself(self, folders: tuple[Path, Path]) -> None:
        result = _score(folders[0], folders[0])
        assert result["fid"] == pytest.approx(0, abs=1e-6)
        assert result["coverage"] == 1

    def test_a_set_against_itself_in_which_images_repeat(
        self, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        repeated = tmp_path / "repeated"
        repeated.mkdir()
        for number in range(3):
            for file in sorted(folders[0].iterdir())[:20]:
                shutil.copy(file, repeated / f"{number}-{file.name}")
        result = _score(repeated, repeated)
        assert (result["precision"], result["recall"], result["coverage"]) == (1, 1, 1)
        assert result["duplicates"] == {"real": 40, "fake": 40}
        assert "40 of the first 60 real images have the features of another" in caplog.text
        assert "40 of the first 60 fake images" in caplog.text

    def test_what_is_passed_over_or_ignored_is_counted(
        self,
        folders: tuple[Path, Path],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        fake = tmp_path / "fake"
        shutil.copytree(folders[1], fake)
        (fake / "notes.txt").write_text("no image")
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.new("RGB", (32, 32), (1, 2, 3)).save(fake / "turned.png", exif=exif)
        Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(fake / "clear.png")
        result = _score(folders[0], fake)
        assert result["passed_over"] == {"real": 0, "fake": 1}
        assert result["orientation_ignored"] == {"real": 0, "fake": 1}
        assert result["transparency_ignored"] == {"real": 0, "fake": 1}
        assert "of the fake images 1 have an EXIF orientation, 1 transparency" in caplog.text
        assert "used 92, passed over 1: notes.txt" in capfd.readouterr().err

    def test_the_array_of_an_npz_that_can_be_meant_is_taken(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        images = np.stack([np.asarray(Image.open(file)) for file in sorted(folders[1].iterdir())])
        expected = _score(folders[0], folders[1])["fid"]
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "fake.npz", labels=np.zeros(90, np.uint8), pictures=images, more=np.zeros((90, 4)))
            result = _score(folders[0], tmp_path / "fake.npz")
            assert result["fid"] == pytest.approx(expected, rel=1e-9)
            assert result["passed_over"]["fake"] == 2
        np.savez(tmp_path / "two.npz", a=images, b=images[::-1])
        with pytest.raises(InputError, match=r"several arrays .*a uint8 \(90, 40, 40, 3\).* as .*two\.npz:NAME"):
            _score(folders[0], tmp_path / "two.npz")
        assert _score(folders[0], Path(f"{tmp_path}/two.npz:b"))["fid"] == pytest.approx(expected, rel=1e-6)

    def test_an_npz_is_mapped_not_copied_and_its_checksum_compared(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
        np.savez(tmp_path / "fake.npz", images)
        opened = open_images(tmp_path / "fake.npz")
        assert isinstance(opened, ImageArray)
        assert isinstance(opened.array.open(), np.memmap)
        content = bytearray((tmp_path / "fake.npz").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "fake.npz").write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            open_images(tmp_path / "fake.npz").inspect()

    def test_given_statistics_are_a_reference(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        images = open_images(folders[0])
        extractor = build_extractor(_with_extractor(load_protocol("clean"), DOMAIN[1]), torch.device("cpu"))
        features = torch.cat([extractor(pixels)[0] for _, pixels in images.parts(0, len(images))]).double()
        np.savez(tmp_path / "real.npz", mu=features.mean(0).numpy(), sigma=torch.cov(features.T).numpy())
        given, whole = _score(tmp_path / "real.npz", folders[1]), _score(*folders)
        assert given["fid"] == pytest.approx(whole["fid"], rel=1e-5)
        assert given["n_real"] is None
        assert "kid" not in given
        assert given["protocol_id"] != whole["protocol_id"]
        with pytest.raises(InputError, match="they can be a reference: --real"):
            _score(folders[0], tmp_path / "real.npz")
        np.savez(tmp_path / "real.npz", mu=np.zeros(5), sigma=np.eye(5))
        with pytest.raises(InputError, match="statistics of 5 features"):
            _score(tmp_path / "real.npz", folders[1])

    def test_constant_images_are_scored_and_pointed_out(
        self, folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        constant = write_png(tmp_path / "constant", np.full((10, 32, 32, 3), 7, np.uint8))
        result = _score(folders[0], constant)
        assert result["inception_score"] == pytest.approx(1)
        assert result["recall"] == 0
        assert "have the same features: a constant" in caplog.text


def _score(real: Path, fake: Path) -> dict[str, Any]:
    return score_images(real, fake, load_protocol("clean"), DOMAIN[1])


def test_a_network_without_classes_scores_all_but_the_inception_score(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.jit.script(MeanColour()).save(tmp_path / "colour.pt")  # pyright: ignore[reportAttributeAccessIssue]
    result = score_images(*folders, load_protocol("clean"), str(tmp_path / "colour.pt"))
    assert {"fid", "kid", "precision", "coverage"} <= result.keys()
    assert "inception_score" not in result


def test_large_photographs_are_held_a_few_at_a_time(tmp_path: Path) -> None:
    """48 pictures of 6 megapixels: 0.9 GB decoded, 3.5 GB as floats; sixteen are decoded at a time."""
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for number in range(48):
            Image.new("RGB", (3000, 2000), (number, 0, 0)).save(tmp_path / name / f"{number}.png", compress_level=1)
    code = (
        "import resource; from pathlib import Path\n"
        "from harness.evaluation import load_protocol, score_images\n"
        f"score_images(Path({str(tmp_path / 'real')!r}), Path({str(tmp_path / 'fake')!r}), "
        f"load_protocol('clean'), {DOMAIN[1]!r})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert int(peak) < 3000


class TestBadInput:
    def test_an_encrypted_or_damaged_archive_names_its_members(
        self, folders: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with zipfile.ZipFile(tmp_path / "fake.zip", "w") as archive:
            for file in sorted(folders[1].iterdir()):
                archive.write(file, file.name)
        content = bytearray((tmp_path / "fake.zip").read_bytes())
        content[content.index(b"IDAT") + 30] ^= 255
        (tmp_path / "fake.zip").write_bytes(content)
        with pytest.raises(InputError, match=r"1 of 90 images .*000\.png"):
            _score(folders[0], tmp_path / "fake.zip")

    @pytest.mark.parametrize("content", ["n_fake: 10", "reference: test"])
    def test_a_protocol_of_a_decoder_or_of_splits(
        self, folders: tuple[Path, Path], tmp_path: Path, content: str
    ) -> None:
        (tmp_path / "mine.yaml").write_text(f"normalisation: running\n{content}\n")
        for protocol in ("paper", str(tmp_path / "mine.yaml")):
            with pytest.raises(InputError, match="neither takes part"):
                score_images(*folders, load_protocol(protocol), DOMAIN[1])

    def test_a_protocol_is_refused_for_what_it_is_not_for_what_it_is_called(
        self, folders: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "mine.yaml").write_text("normalisation: batch\nextractor: inception\n")
        (tmp_path / "batch.yaml").write_text("normalisation: running\nbatch_size: 64\n")
        for name in ("mine.yaml", "batch.yaml"):
            with pytest.raises(InputError, match="neither takes part"):
                score_images(*folders, load_protocol(str(tmp_path / name)), DOMAIN[1])
        published = score_images(*folders, load_protocol("published"), DOMAIN[1])
        assert published["protocol"] == "published"

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path.mkdir(), "holds no images"),
            (lambda path: None, "there is no file or folder"),
            (lambda path: write_png(path, np.zeros((1, 8, 8, 3), np.uint8)), "holds 1 image"),
            (lambda path: path.write_text("text"), "no folder, no whole zip or tar archive"),
        ],
    )
    def test_is_explained(self, folders: tuple[Path, Path], tmp_path: Path, make: Any, message: str) -> None:
        make(tmp_path / "fake")
        with pytest.raises(InputError, match=message):
            _score(folders[0], tmp_path / "fake")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((4, 8, 8, 3), np.nan), "NaN or infinite"),
            (np.zeros((4, 8, 8, 3)), "save them as uint8"),
            (np.zeros((4, 8, 8, 2), np.uint8), "an array of shape"),
            (np.zeros((4, 8), np.uint8), "an array of shape"),
            (np.zeros((4, 0, 8, 3), np.uint8), "an array of shape"),
        ],
    )
    def test_arrays(self, folders: tuple[Path, Path], tmp_path: Path, array: np.ndarray, message: str) -> None:
        np.savez(tmp_path / "fake.npz", array)
        with pytest.raises(InputError, match=message):
            _score(folders[0], tmp_path / "fake.npz")

    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_unreadable_files_are_named(self, folders: tuple[Path, Path], tmp_path: Path, num_processes: int) -> None:
        shutil.copytree(folders[1], tmp_path / "fake")
        (tmp_path / "fake" / "042.png").write_bytes(b"\x89PNG no more")
        command = ("-m", "aaebench", "score", "--real", str(folders[0]), "--fake", str(tmp_path / "fake"), *DOMAIN)
        process = launch(None, num_processes, *command)
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
        assert not stdout
        assert "1 of 90 images in" in stderr
        assert "042.png" in stderr
        if num_processes == 1:
            assert process.returncode == 2

    def test_missing_weights_name_the_file_and_the_command(
        self, folders: tuple[Path, Path], empty_cache: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert call(lambda: score(real=folders[0], fake=folders[1])) == 2
        stderr = capfd.readouterr().err
        assert str(empty_cache / "weights" / "inception-2015-12-05.pt") in stderr
        assert "aaebench stage --inception --from FILE" in stderr.replace("[--from FILE]", "--from FILE")

    @pytest.mark.parametrize("extractor", ["domain-flowers", "nothing", "missing.safetensors"])
    def test_unknown_extractors(self, folders: tuple[Path, Path], extractor: str) -> None:
        with pytest.raises(InputError, match="domain-digits"):
            score_images(*folders, load_protocol("clean"), extractor)


def test_help_teaches(aaebench: str) -> None:
    shown = subprocess.run([aaebench, "score", "--help"], capture_output=True, text=True, check=True).stdout
    for word in ("--real", "--fake", "--protocol", "--extractor", "accelerate launch", "published"):
        assert word in shown
