"""The pages build without a warning and without the internet, their links lead somewhere, their commands parse."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import harness
from aaebench import app
from harness.config import build_config

ROOT = Path(__file__).parent.parent
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]  # of the site
MADE = ROOT / "docs" / "calibration.md"  # by tests/calibration, which names commands in short
PAGES = [*OUTSIDE, *sorted({*(ROOT / "docs").rglob("*.md")} - {MADE})]


def find_commands(page: Path) -> Iterator[str]:
    """Every `aaebench ...` of a page's shell blocks, also behind a launcher; of its sentences those with options."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "harness.train" in words:
                yield shlex.join(["run", *words[words.index("harness.train") + 1 :]])
            elif "aaebench" in words:
                yield shlex.join(words[words.index("aaebench") + 1 :])
    for code in re.findall(r"`aaebench ([^`]+ --[^`]+)`", page.read_text()):
        yield from (part.removeprefix("aaebench ") for part in code.split(" && ") if not part.endswith("--help"))


COMMANDS = [pytest.param(command, id=f"{page.stem}: {command}") for page in PAGES for command in find_commands(page)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_is_one_that_the_command_line_takes(command: str) -> None:
    app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)


def test_the_run_that_the_docs_name_is_the_demo_presets() -> None:
    named = {run for page in PAGES for run in re.findall(r"aae-digits-32px-seed0-[0-9a-f]{12}", page.read_text())}
    assert named == {build_config({"preset": "demo"}).run_id}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: page.name)
def test_the_links_of_a_page_outside_the_site_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built strictly: a broken link, a page that no menu has or any other warning fails."""
    path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(path)]
    built = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return path


def test_the_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    fetched = r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"'
    assert {url for page in pages for url in re.findall(fetched, page.read_text())} == set()
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert [url for style in styles for url in re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]+", style)] == []


def test_the_reference_has_the_docstrings(site: Path) -> None:
    assert "Tr(S1 + S2 - 2 (S1 S2)^1/2)" in (site / "reference" / "evaluation.html").read_text()


def test_the_picture_of_the_floors_is_of_this_tree(tmp_path: Path) -> None:
    drawn = subprocess.run(
        [sys.executable, "-c", "from floors import draw; print(draw(), end='')"],
        cwd=ROOT / "docs" / "tools",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs" / "floors.svg").read_text() == drawn.stdout, "make docs draws it anew"


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == harness.__version__
