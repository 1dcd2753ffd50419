"""A copy of the code for a submission's jobs, which may start days after it, when the checkout has been edited."""

import shutil
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from harness.config import RunConfig
from harness.training.environment import SNAPSHOT_COMMIT, read_git_commit

PACKAGES = ("variants", "harness", "slurm")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*")


def snapshot_code(folder: Path, configs: Iterable[RunConfig]) -> None:
    """Copy the packages, their commit, and the user's own variants that the runs name, into `folder`."""
    folder.mkdir(parents=True)
    for name in PACKAGES:
        package = import_module(name)
        assert package.__file__ is not None
        shutil.copytree(Path(package.__file__).parent, folder / name, ignore=LEFT_OUT)
    (folder / SNAPSHOT_COMMIT).write_text(read_git_commit() or "")
    for name in sorted({config.variant.partition(":")[0] for config in configs if ":" in config.variant}):
        _copy_own_module(name, folder)


def _copy_own_module(name: str, folder: Path) -> None:
    """The top-level package or module that holds `name`, unless it is installed."""
    top = name.partition(".")[0]
    source = Path.cwd() / top
    if (folder / top).exists() or (folder / f"{top}.py").exists():
        return
    if source.is_dir():
        shutil.copytree(source, folder / top, ignore=LEFT_OUT)
    elif source.with_suffix(".py").is_file():
        shutil.copy(source.with_suffix(".py"), folder)
    else:
        assert top in sys.modules
