"""Fixtures shared by all tests: a cache of the session's own, and the real components that CI must have."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup` a file's tests share a process, as they share what took long to make.

    All of SLURM's share one: there is one cluster. They come first, as they wait more than they compute.
    """
    for item in items:
        group = "slurm" if item.path.parent.name == "slurm" else str(item.path.relative_to(Path(__file__).parent))
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path.parent.name != "slurm")


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
