"""Images drawn from a trained model are those that its run scores, whatever their number."""

import json
from pathlib import Path

import pytest
from PIL import Image

from harness.evaluation.images import GeneratedImages
from harness.evaluation.samplers import build_prior
from harness.models.drawing import write_images
from harness.models.export import write_export
from tests.harness.trained import command, listing, train_briefly


class TestSamples:
    @pytest.mark.parametrize("protocol", ["paper", "clean"])
    def test_are_those_that_the_run_scores(self, protocol: str, here: Path) -> None:
        folder, engine, evaluator = train_briefly(here / "runs", protocol=protocol, seed=3)
        size = evaluator.reading.batch_size
        scored = GeneratedImages(engine.variant, build_prior(10), evaluator.reading, 3, engine.processes.device)
        ((_, pixels),) = scored.parts(0, size)
        for source in (folder.path, write_export(folder.path, "best")):
            samples = write_images(source, 20, 3, "best")
            found = [Image.open(samples / f"{number:06d}.png") for number in range(20)]
            expected = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels[:20]]
            assert [image.tobytes() for image in found] == [image.tobytes() for image in expected]

    def test_fewer_are_the_first_of_more(self, brief_run: Path, here: Path) -> None:
        """1030 are more than a batch of 1024, whose images depend on one another: the second is whole, too."""
        few, more, most = (write_images(brief_run, n, 0, "best", here / f"{n}") for n in (64, 1030, 1040))
        for fewer, larger in ((few, more), (more, most)):
            for file in fewer.iterdir():
                assert file.read_bytes() == (larger / file.name).read_bytes()
        other = write_images(brief_run, 1, 1, "best", here / "other")
        assert (other / "000000.png").read_bytes() != (few / "000000.png").read_bytes()

    def test_are_a_folder_that_can_be_scored_and_a_picture(
        self, finished_run: Path, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert command("sample", str(finished_run)) == 0
        folder = capfd.readouterr().out.splitlines()[-1]
        assert sorted(file.name for file in Path(folder).iterdir()) == [f"{number:06d}.png" for number in range(64)]
        assert Image.open(f"{folder}.png").size == (256, 256)
        assert Image.open(f"{folder}.png").crop((32, 32, 64, 64)).tobytes() == (
            Image.open(Path(folder) / "000009.png").tobytes()
        )
        assert command("score", "--real", folder, "--fake", folder, "--extractor", "domain-digits") == 0
        assert json.loads(capfd.readouterr().out)["n_fake"] == 64

    @pytest.mark.parametrize(("n", "size"), [(1, (32, 32)), (7, (224, 32)), (9, (256, 64))])
    def test_pictures_of_a_few(self, n: int, size: tuple[int, int], brief_run: Path, here: Path) -> None:
        assert Image.open(f"{write_images(brief_run, n, 0, 'best')}.png").size == size

    def test_in_grey(self, here: Path) -> None:
        folder, _, _ = train_briefly(here / "runs", channels=1)
        samples = write_images(folder.path, 2, 0, "best")
        assert Image.open(samples / "000000.png").mode == "L"

    def test_replace_only_samples_of_the_same_run(
        self, finished_run: Path, brief_run: Path, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for n in ("9", "3"):
            assert command("sample", str(finished_run), "-n", n, "--out", "samples") == 0
        assert len(list((here / "samples").iterdir())) == 3
        before = listing(here)
        assert command("sample", str(brief_run), "--out", "samples") == 2
        assert f"is not of samples of {brief_run.name}" in capfd.readouterr().err
        assert command("sample", str(finished_run), "--out", "samples/000000.png") == 2
        assert listing(here) == before
        Image.new("RGB", (32, 32)).save(here / "samples" / "000003.png")
        assert command("sample", str(finished_run), "--out", "samples") == 2
        assert (here / "samples" / "000003.png").exists()
        (here / "other.png").write_text("somebody's")
        assert command("sample", str(finished_run), "--out", "other") == 2
        assert not (here / "other").exists()

    def test_a_pictures_name_is_a_picture(
        self, finished_run: Path, brief_run: Path, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        before = listing(here)
        assert command("sample", str(finished_run), "--out", "pictures/s.png") == 0
        assert capfd.readouterr().out.splitlines()[-1] == "pictures/s.png"
        assert [file.name for file in (here / "pictures").iterdir()] == ["s.png"]
        assert command("sample", str(finished_run), "--out", "drawn") == 0
        assert (here / "pictures" / "s.png").read_bytes() == (here / "drawn.png").read_bytes()
        assert command("sample", str(finished_run), "-n", "3", "--out", "pictures/s.png") == 0
        assert Image.open(here / "pictures" / "s.png").size == (96, 32)
        capfd.readouterr()
        assert command("sample", str(brief_run), "--out", "pictures/s.png") == 2
        assert f"exists and is no picture of {brief_run.name}" in capfd.readouterr().err
        assert Image.open(here / "pictures" / "s.png").size == (96, 32)
        assert before.items() <= listing(here).items()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--out", "s.JPG"), "pictures are written as PNG; name it s.png"),
            (("--out", "s.png", "-n", "65"), "-n 65 is more than the 64 images of a picture"),
        ],
    )
    def test_pictures_that_cannot_be(
        self, brief_run: Path, here: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert command("sample", str(brief_run), *arguments) == 2
        assert message in capfd.readouterr().err
        assert not list(here.iterdir())
