"""Imports go one way: variants <- harness <- slurm, results; the command line assembles them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"variants": set(), "harness": {"variants"}, "slurm": {"harness"}, "results": {"harness"}}


def modules_of(node: ast.AST) -> set[str]:
    """The modules that a statement imports; of `from package import name` the name too, which may be a module."""
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()


def imported_by(file: Path) -> set[str]:
    return {module for node in ast.walk(ast.parse(file.read_text())) for module in modules_of(node)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        imported = {module.split(".")[0] for module in imported_by(file)}
        foreign = imported & {*MAY_IMPORT, "aaebench"} - {package} - MAY_IMPORT[package]
        assert not foreign, f"{file} imports {foreign}"


@pytest.mark.parametrize(
    "code",
    [
        "import aaebench; aaebench.app.help_print()",
        "import results.commands, results.show.figures, results.show.report, results.compare, results.compute.analysis",
        "import harness; harness.load",
        "import harness.record",
        "import aaebench; aaebench.app(['collect', '--help'], result_action='return_value')",
        "import aaebench; aaebench.app(['run', '--help'], result_action='return_value')",
        "import aaebench; aaebench.app(['export', '--help'], result_action='return_value')",
    ],
)
def test_help_and_collectors_start_without_torch(code: str) -> None:
    check = f"{code}\nimport sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


# The floors of harness/, from the lowest: a file imports from its own and from those below it. What is in none of the
# folders is the lowest floor, but for the entry points, which are above all.
FLOORS = ["data", "launch", "tracking", "evaluation", "training", "models"]
ENTRY_POINTS = {"harness.commands", "harness.model_commands", "harness.train"}


def floor_of(module: str) -> int:
    if module in ENTRY_POINTS:
        return len(FLOORS) + 1
    folder = module.split(".")[1] if "." in module else ""
    return FLOORS.index(folder) + 1 if folder in FLOORS else 0


def test_each_floor_of_the_harness_imports_only_what_lies_below_it() -> None:
    upward = []
    for file in (ROOT / "harness").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        if module != "harness.__init__":  # `load`, for users
            imported = {name for name in imported_by(file) if name.startswith("harness.")}
            upward += [f"{module} imports {name}" for name in imported if floor_of(name) > floor_of(module)]
    assert not upward


ROOMS = ["read", "compute", "show"]  # of results/, likewise; its commands stand above them


def room_of(module: str) -> int:
    folder = module.split(".")[1] if "." in module else ""
    return ROOMS.index(folder) if folder in ROOMS else len(ROOMS)


def test_each_room_of_the_results_imports_only_from_those_before_it() -> None:
    upward = []
    for file in (ROOT / "results").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        imported = {name for name in imported_by(file) if name.startswith("results.")}
        upward += [f"{module} imports {name}" for name in imported if room_of(name) > room_of(module)]
    assert not upward


@pytest.mark.parametrize("name", ["record", "files", "errors"])
def test_records_need_only_the_standard_library(name: str) -> None:
    tree = ast.parse((ROOT / "harness" / f"{name}.py").read_text())
    at_the_top = {module for node in tree.body for module in modules_of(node)}
    foreign = {module for module in at_the_top if not module.startswith(("harness.files", "harness.errors"))}
    assert {module.split(".")[0] for module in foreign} <= set(sys.stdlib_module_names)
