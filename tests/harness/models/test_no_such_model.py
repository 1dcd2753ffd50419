"""What cannot be exported or drawn from is explained, and nothing is written, or half written."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import InputError
from harness.files import replacing_folder
from harness.models.drawing import write_images
from harness.models.export import write_export
from tests.harness.test_train import PATIENCE, ROOT
from tests.harness.trained import command, listing, train_briefly


def remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()


def cut_weights(folder: Path) -> None:
    weights = folder / "checkpoints/latest/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def remove_progress(folder: Path) -> None:
    (folder / "checkpoints/latest/progress.json").unlink()


def remove_best(folder: Path) -> None:
    (folder / "checkpoints/best").unlink()


def edit_config(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return edit


class TestErrors:
    @pytest.mark.parametrize("name", ["export", "sample"])
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (remove_checkpoints, "holds no checkpoint yet"),
            (cut_weights, "is damaged"),
            (remove_progress, "is damaged"),
            (remove_best, "ask for the latest one"),
            (lambda folder: (folder / "config.json").write_text("{"), "cannot read the configuration"),
            (lambda folder: (folder / "config.json").unlink(), "is no run folder and no export"),
            (edit_config(latent_dim=11), "do not fit its configuration"),
            (edit_config(variant="latent_mapping", options={"depth": 1}), "do not fit its configuration"),
            (edit_config(variant="nowhere:Mine"), "run only on --trust-code"),
            (edit_config(options={"deep": 3}), "is it of another version"),
        ],
    )
    def test_a_run_that_holds_no_such_model(
        self, name: str, damage: Callable[[Path], None], message: str, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder, _, _ = train_briefly(here / "runs")
        damage(folder.path)
        before = listing(here)
        assert command(name, str(folder.path)) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert listing(here) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("export", "no/such"), "no/such is no run folder and no export; name one, as"),
            (("sample", "no/such"), "no/such is no run folder and no export"),
            (("sample", "RUN", "-n", "0"), "-n 0 is no number of images; give 1 to"),
            (("sample", "RUN", "-n", "-5"), "-n -5 is no number of images"),
            (("sample", "RUN", "--seed", "-1"), "give 0 or more"),
            (("export", "RUN/.."), "name one that it holds, as"),
            (("export", "RUN", "--out", "file/model"), "choose another with --out"),
            (("sample", "RUN", "--out", "file/samples"), "choose another with --out"),
        ],
    )
    def test_what_was_asked_for(
        self,
        arguments: tuple[str, ...],
        message: str,
        brief_run: Path,
        here: Path,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        (here / "file").write_text("in the way")
        before = listing(here)
        assert command(*(argument.replace("RUN", str(brief_run)) for argument in arguments)) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert listing(here) == before

    def test_an_export_that_is_cut_short(self, brief_run: Path, here: Path) -> None:
        exported = write_export(brief_run, "best")
        weights = exported / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        with pytest.raises(InputError, match="export its run again"):
            harness.load(exported)


@contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process end after 500 bytes, as on a disk that is full.

    Not a fixture: pytest would write its own progress, maybe to a file, before the limit is lifted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestNothingIsHalfWritten:
    def test_on_a_full_disk(self, brief_run: Path, here: Path) -> None:
        for write in (
            lambda: write_export(brief_run, "best", here / "new" / "model"),
            lambda: write_images(brief_run, 9, 0, "best", here / "new" / "samples"),
        ):
            with full_disk(), pytest.raises(InputError, match=r"cannot write .*free some space"):
                write()
        assert list(here.iterdir()) == []

    def test_an_earlier_export_outlives_a_failure(self, brief_run: Path, here: Path) -> None:
        write_export(brief_run, "best", here / "model")
        before = listing(here)
        with full_disk(), pytest.raises(InputError, match="free some space"):
            write_export(brief_run, "best", here / "model")
        assert listing(here) == before

    @pytest.mark.parametrize("is_new", [False, True])
    def test_where_the_new_folder_cannot_take_its_place(self, is_new: bool, here: Path) -> None:
        (here / ("other" if is_new else "model")).mkdir()
        before = listing(here)
        with pytest.raises(InputError, match="cannot write model"), replacing_folder(Path("model")) as new:
            new.rmdir()
        assert listing(here).keys() == before.keys()

    def test_what_was_there_outlives_an_interrupt_between_the_renames(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (here / "model").mkdir()
        (here / "model" / "weights").write_text("old")
        rename = Path.rename

        def interrupted(self: Path, target: Path) -> Path:
            if self.name.startswith(".writing-") and not self.name.endswith("-old"):
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt), replacing_folder(Path("model")):
            pass
        assert [(file.name, file.read_text()) for file in here.glob("*/*")] == [("weights", "old")]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_by_a_process_that_is_stopped(self, number: signal.Signals, brief_run: Path, here: Path) -> None:
        arguments = ["sample", str(brief_run), "-n", "100000", "--out", "samples"]
        process = subprocess.Popen(
            [sys.executable, "-m", "aaebench", *arguments],
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        deadline = time.monotonic() + PATIENCE
        while not list(here.glob(".writing-*/000100.png")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait() != 0
        assert not (here / "samples").exists()
        assert not (here / "samples.png").exists()
        if number == signal.SIGINT:
            assert list(here.iterdir()) == []
        assert command("sample", str(brief_run), "-n", "2", "--out", "samples") == 0
        assert len(list((here / "samples").iterdir())) == 2
