"""Fixtures shared by all tests: a cache of the session's own, and the real components that CI must have."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """SLURM's tests come first: they wait more than they compute, and others can run beside them."""
    items.sort(key=lambda item: item.path.parent.name != "slurm")


class SharingFixtures(LoadScopeScheduling):
    """Which tests pytest-xdist gives to one process: a file's, as they share what took long, and all of SLURM's."""

    def _split_scope(self, nodeid: str) -> str:
        return "slurm" if nodeid.startswith("tests/slurm/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharingFixtures:
    return SharingFixtures(config, log)


def require(is_there: bool, message: str) -> None:
    """Skip a test whose real component is missing; with CI=true, fail it."""
    if not is_there and os.environ.get("CI"):
        pytest.fail(message)
    if not is_there:
        pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole session, inherited by the processes that tests start."""
    path = tmp_path_factory.mktemp("cache")
    before = os.environ.get("AAEBENCH_CACHE")
    os.environ["AAEBENCH_CACHE"] = str(path)
    yield path
    if before is None:
        del os.environ["AAEBENCH_CACHE"]
    else:
        os.environ["AAEBENCH_CACHE"] = before


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AAEBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """The real Fashion-MNIST of Debian's package; CI installs it."""
    require(FASHION_MNIST.is_dir(), "Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    return FASHION_MNIST


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.harness.evaluation.inception import save_inception  # noqa: PLC0415 (imports torch)

    return save_inception(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="session")
def aaebench() -> str:
    """The installed console script."""
    return str(Path(sys.executable).with_name("aaebench"))
