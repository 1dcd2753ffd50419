"""Two variants on the whole real Fashion-MNIST at the paper's settings, from Debian's files to CSVs."""

import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest


@pytest.fixture(scope="module")
def runs(fashion_mnist: Path, aaebench: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("fashion")
    for variant in ("aae", "kld_loss"):
        arguments = ("--dataset", "fashion_mnist", "--epochs", "3", "--extractor", "domain")
        subprocess.run([aaebench, "run", "--variant", variant, *arguments, "--out", str(out / "runs")], check=True)
    subprocess.run([aaebench, "collect", str(out / "runs"), "--out", str(out)], check=True)
    return pd.read_csv(out / "runs.csv").query("sampler == 'prior'").set_index(["variant", "epoch"])


def test_fid_falls(runs: Any) -> None:
    for variant in ("aae", "kld_loss"):
        assert runs.loc[(variant, 3), "fid"] < 0.9 * runs.loc[(variant, 0), "fid"]
        assert runs.loc[(variant, 3), "inception_score"] > runs.loc[(variant, 0), "inception_score"]
    assert set(runs["n_real"]) == set(runs["n_fake"]) == {60000}


def test_sigma_falls_for_the_aae_as_the_paper_found(runs: Any) -> None:
    assert runs.loc[("aae", 3), "sigma_mean"] < 0.7 * runs.loc[("aae", 0), "sigma_mean"]
    assert runs.loc[("aae", 3), "noise_share"] < 0.5 * runs.loc[("aae", 0), "noise_share"]


def test_sigma_stays_with_the_kl_term(runs: Any) -> None:
    assert runs.loc[("kld_loss", 3), "noise_share"] > 2 * runs.loc[("aae", 3), "noise_share"]
