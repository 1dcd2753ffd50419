"""A run folder from others is data: the code that it names runs only where its reader says so."""

import json
import shutil
from pathlib import Path

import pytest

import harness
from harness.errors import InputError
from tests.harness.trained import assert_same, command, train_briefly

OWN = "tests.harness.noisy:Noisy"
EVIL = """
from pathlib import Path
from variants import AAE as Mine
Path({marker!r}).write_text("I ran")
"""


@pytest.fixture
def strangers(brief_run: Path, here: Path) -> Path:
    """A run folder whose configuration names a module that writes a file when it is imported; `here` and in it."""
    folder = here / "strangers"
    shutil.copytree(brief_run, folder, symlinks=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"variant": "evil_module:Mine"}))
    for place in (here, folder):
        (place / "evil_module.py").write_text(EVIL.format(marker=str(here / "ran")))
    return folder


@pytest.mark.parametrize("arguments", [("sample", "-n", "1"), ("export",), ("evaluate",)])
def test_commands_import_no_strangers_code_unasked(
    strangers: Path, here: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    name, *rest = arguments
    assert command(name, str(strangers), *rest) == 2
    assert "--trust-code" in capfd.readouterr().err
    assert not (here / "ran").exists()


def test_load_imports_it_only_when_trusted_and_never_from_the_folder(
    strangers: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="trust_code=True"):
        harness.load(strangers)
    with monkeypatch.context() as inside:
        inside.chdir(strangers)
        with pytest.raises(InputError, match="from the folder that holds your own package"):
            harness.load(strangers, trust_code=True)
    assert not (here / "ran").exists()
    harness.load(strangers, trust_code=True)
    assert (here / "ran").read_text() == "I ran"


def test_a_variant_of_ones_own_is_loaded_sampled_and_exported_when_trusted(here: Path) -> None:
    folder, engine, _ = train_briefly(here / "runs", variant=OWN)
    assert_same(harness.load(folder.path, trust_code=True), engine.variant)
    assert command("export", str(folder.path), "--out", "exported", "--trust-code") == 0
    assert command("sample", "exported", "-n", "1", "--trust-code") == 0
    assert command("sample", "exported", "-n", "1") == 2
