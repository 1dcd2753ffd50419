"""Imports go one way: variants <- harness <- slurm, results; the command line assembles them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"variants": set(), "harness": {"variants"}, "slurm": {"harness"}, "results": {"harness"}}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported = {(module or "").split(".")[0] for module in modules}
            foreign = imported & {*MAY_IMPORT, "aaebench"} - {package} - MAY_IMPORT[package]
            assert not foreign, f"{file} imports {foreign}"


@pytest.mark.parametrize(
    "code",
    [
        "import aaebench; aaebench.app.help_print()",
        "import results.commands, results.figures, results.report, results.compare, results.analysis",
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


def test_records_need_only_the_standard_library() -> None:
    for node in ast.walk(ast.parse((ROOT / "harness" / "record.py").read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert {(module or "").split(".")[0] for module in modules} <= set(sys.stdlib_module_names)
