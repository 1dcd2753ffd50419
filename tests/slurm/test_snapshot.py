"""What a submission's jobs run is a copy: it holds all that an own variant imports, and was tried before."""

import sys
from pathlib import Path

import pytest

from aaebench import app
from harness.commands import call
from harness.config import build_config
from slurm.snapshot import find_own_modules, snapshot_code

VARIANT = "class Own(AAE):\n    pass\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a variant that imports what lies beside it, in all the ways in which one can."""
    files = {
        "snapped.py": "import os\nimport torch\nfrom variants.aae import AAE\nimport snapped_beside\n\n\n" + VARIANT,
        "snapped_beside.py": "from snapped_package.inner import constant\n",
        "snapped_package/__init__.py": "",
        "snapped_package/inner.py": "from . import other\n\nconstant = 1\n",
        "snapped_package/other.py": "def late():\n    import snapped_late\n",
        "snapped_late.py": "",
        "unrelated.py": "",
        "snapped_package/notes.txt": "kept, as all of a package",
        "torch.txt": "",
    }
    for name, text in files.items():
        file = tmp_path / "here" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    for name in [name for name in sys.modules if name.startswith("snapped")]:  # of another test's folder
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "here"


def test_what_an_own_variant_imports_comes_along(here: Path, tmp_path: Path) -> None:
    found = find_own_modules({"snapped"}, [here])
    assert [path.name for path in found] == ["snapped.py", "snapped_beside.py", "snapped_late.py", "snapped_package"]
    snapshot_code(tmp_path / "code", [build_config({"variant": "snapped:Own"})])
    copied = {path.name for path in (tmp_path / "code").iterdir()}
    ours = {"aaebench.py", "harness", "results", "slurm", "variants", "GIT_COMMIT"}
    assert copied == {path.name for path in found} | ours
    assert (tmp_path / "code/snapped_package/notes.txt").exists()


def test_a_variant_that_the_copy_cannot_import_is_refused_before_anything_is_submitted(
    here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It reads a file of the working folder, where it is found, and no job runs."""
    (here / "reading.py").write_text(f"from variants.aae import AAE\n\nopen('torch.txt').close()\n\n\n{VARIANT}")
    (here / "tiny.yaml").write_text("grid: {variant: ['reading:Own'], seed: [0]}\nfixed: {preset: demo}")
    tokens = ["sweep", "submit", "tiny.yaml", "--out", str(tmp_path / "runs"), "--executor", "local"]
    assert call(lambda: app(tokens, result_action="return_value")) == 2
    error = capfd.readouterr().err
    assert (
        "reading:Own cannot be imported from the copy of the code that the jobs run (ImportError: FileNotFoundError"
        in error
    )
    assert not (tmp_path / "runs").exists()


def test_own_variants_may_lie_beside_the_sweep(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_own_modules({"snapped"}, [tmp_path / "elsewhere"]) == []
    assert len(find_own_modules({"snapped"}, [tmp_path / "elsewhere", here])) == 4
