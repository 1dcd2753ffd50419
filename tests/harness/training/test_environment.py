"""What a run says of where it ran."""

import importlib.metadata
import tomllib
from importlib.metadata import PackageNotFoundError

import pytest

import harness
from harness.training.environment import read_versions
from tests.harness.test_train import ROOT


def test_a_copied_tree_knows_its_version_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str:
        if name == "aaebench":
            raise PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr("harness.training.environment.version", installed)
    versions = read_versions()
    assert versions["aaebench"] == harness.__version__
    assert set(versions) == {"python", "aaebench", "torch", "accelerate", "numpy"}


def test_what_is_installed_takes_its_version_from_the_code() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "harness.__version__"}
