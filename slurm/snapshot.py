"""A copy of the code for a submission's jobs, which may start days after it, when the checkout has been edited."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import harness
from harness.config import RunConfig
from harness.errors import InputError
from harness.files import make_folder
from harness.training.environment import SNAPSHOT_COMMIT, read_git_commit

PACKAGES = ("variants", "harness", "slurm", "results")
COMMAND_LINE = "aaebench"  # a module
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*")


def snapshot_code(folder: Path, configs: Iterable[RunConfig], beside: Collection[Path] = ()) -> None:
    """Copy the packages, their commit, and the user's own variants that the runs name, into `folder`.

    Args: beside: folders that hold the user's own modules, besides the working folder.
    Raises: InputError if a variant cannot be imported from the copy alone.
    """
    make_folder(folder)
    for name in PACKAGES:
        package = import_module(name)
        assert package.__file__ is not None
        shutil.copytree(Path(package.__file__).parent, folder / name, ignore=LEFT_OUT)
    shutil.copy(Path(harness.__file__).parents[1] / f"{COMMAND_LINE}.py", folder)
    (folder / SNAPSHOT_COMMIT).write_text(read_git_commit() or "")
    own = sorted({config.variant for config in configs if ":" in config.variant})
    for source in find_own_modules({name.partition(":")[0] for name in own}, {Path.cwd(), *beside}):
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, folder)
    if own:
        _require_importable(own, folder)


def find_own_modules(names: Collection[str], folders: Collection[Path]) -> list[Path]:
    """The top-level modules and packages in `folders` that the named ones are or import, these too, and so on."""
    found: dict[str, Path | None] = {}
    waiting = {name.partition(".")[0] for name in names}
    while waiting:
        name = waiting.pop()
        found[name] = source = _find_source(name, folders)
        if source is not None:
            files = source.rglob("*.py") if source.is_dir() else [source]
            waiting |= {imported for file in files for imported in _read_imports(file)} - found.keys()
    return [source for _, source in sorted(found.items()) if source is not None]


def _find_source(name: str, folders: Collection[Path]) -> Path | None:
    """Where a top-level module or package is imported from, if that is in one of `folders`."""
    if name in (*PACKAGES, COMMAND_LINE) or name in sys.stdlib_module_names:
        return None
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # `import it` in a branch that is never taken
        return None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or []), *([spec.origin] if spec.origin else [])]
    source = Path(places[0]).absolute() if places else None
    return source if source is not None and source.parent in {each.absolute() for each in folders} else None


def _read_imports(file: Path) -> Iterator[str]:
    """The first part of each name that a file imports, wherever in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a template, or one that nothing imports
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _require_importable(variants: list[str], code: Path) -> None:
    """Raises: InputError with Python's own words if one of the variants cannot be imported where its jobs will."""
    check = f"from variants import load_variant; [load_variant(name) for name in {variants!r}]"
    paths = [str(code), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", check]
    answer = subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()] or ["no message"]
        raise InputError(
            f"{', '.join(variants)} cannot be imported from the copy of the code that the jobs run ({said[-1]}); "
            "put what it imports beside it, or install it"
        )
