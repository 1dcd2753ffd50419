"""The wheel is whole: it works where nothing of the checkout is."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import harness
from harness.config import build_config
from harness.record import RunFolder

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "results", "slurm", "variants")


@dataclass(frozen=True)
class Installed:
    """A virtual environment that has the wheel's files, and of everything else what the tests run with."""

    folder: Path
    packages: Path

    def run(self, *command: str) -> str:
        """What a command prints that starts in a folder of nobody's. Raises: AssertionError if it fails."""
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        program = str(self.folder / "venv" / "bin" / command[0])
        ended = subprocess.run(
            [program, *command[1:]], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, of a copy: setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("built")
    for name in list_files():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    return build(folder / "source", folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    python = str(folder / "venv" / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    shared = {str(Path(pytest.__file__).parent.parent), sys.modules["torch"].__path__[0].removesuffix("/torch")}
    (packages / "shared.pth").write_text("\n".join(shared))  # whose own .pth files, of the checkout, do not count there
    return Installed(folder, packages)


def build(source: Path, to: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(to), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = to.glob("*.whl")
    return path


def list_files() -> list[str]:
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def test_it_has_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {"aaebench.py", *(name for name in list_files() if name.startswith(PACKAGES))}


@pytest.mark.parametrize("recipe", ["Dockerfile", "aaebench.def"])
def test_what_an_image_copies_makes_the_same_wheel(recipe: str, wheel: Path, tmp_path: Path) -> None:
    """All that can be tried of an image where there is neither Docker nor Apptainer."""
    text = (ROOT / "containers" / recipe).read_text()
    copied = re.findall(r"^(?:COPY|   ) *(.+?) /opt/source(?:/\S*)?$", text, re.MULTILINE)
    for name in (name for names in copied for name in names.split()):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif name != "/opt/source/install.sh":
            shutil.copy(ROOT / name, tmp_path)
    with zipfile.ZipFile(build(tmp_path, tmp_path / "dist", "--wheel")) as ours, zipfile.ZipFile(wheel) as whole:
        assert set(ours.namelist()) == set(whole.namelist())


def test_both_images_are_of_one_base_and_installed_by_one_script() -> None:
    docker, apptainer = ((ROOT / "containers" / name).read_text() for name in ("Dockerfile", "aaebench.def"))
    bases = [re.findall(r"^(?:FROM|From:) (nvidia/cuda:.+)$", text, re.MULTILINE) for text in (docker, apptainer)]
    assert bases[0] == bases[1]
    assert len(bases[0]) == 1
    assert all("/opt/source/install.sh /opt/source\n" in text for text in (docker, apptainer))
    subprocess.run(["sh", "-n", str(ROOT / "containers" / "install.sh")], check=True)


def test_its_version_is_the_codes(wheel: Path, installed: Installed) -> None:
    assert wheel.name == f"aaebench-{harness.__version__}-py3-none-any.whl"
    assert installed.run("aaebench", "--version") == harness.__version__


def test_the_demos_first_run_and_its_report_need_no_checkout(installed: Installed) -> None:
    config = build_config({"preset": "demo", "epochs": 2})
    run = RunFolder(Path(installed.run("aaebench", "run", "--preset", "demo", "--epochs", "2", "--out", "../runs")))
    folder = RunFolder(installed.folder / "elsewhere" / run.path)
    assert run.path.name == config.run_id
    assert folder.read_status()["state"] == "done"
    environment = folder.read_environment()
    assert environment["versions"]["aaebench"] == harness.__version__
    assert environment["git_commit"] is None
    installed.run("aaebench", "report", "../runs", "--out", "report")
    assert config.run_id in (installed.folder / "elsewhere" / "report" / "report.html").read_text()


def test_what_it_imports_is_its_own(installed: Installed) -> None:
    code = "import sys, aaebench, slurm.submit, results.commands, harness.train; print(*(sys.modules[n].__file__ for n "
    code += f"in {('aaebench', *PACKAGES)}), sep='\\n')"
    files = [Path(line) for line in installed.run("python", "-c", code).splitlines()]
    assert len(files) == 5
    assert {file.is_relative_to(installed.packages) for file in files} == {True}


def test_all_that_the_code_imports_is_among_its_dependencies() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (each for name, extra in settings["optional-dependencies"].items() if name != "dev" for each in extra)
    declared = {re.split(r"[^\w-]", each)[0].lower().replace("_", "-") for each in (*settings["dependencies"], *extras)}
    distributions = packages_distributions()
    foreign = set(find_imports()) - {"aaebench", *PACKAGES} - set(sys.stdlib_module_names)
    assert "torch" in foreign
    for name in sorted(foreign):
        provided = {each.lower().replace("_", "-") for each in distributions.get(name, ())}
        assert provided & declared, f"{name} is imported, of {provided or 'nothing that is installed'}"


def find_imports() -> Iterator[str]:
    for file in [ROOT / "aaebench.py", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield (node.module or "").partition(".")[0]
