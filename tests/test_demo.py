"""`aaebench demo`, as the README's first command runs it, with fewer epochs."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aaebench import app
from harness.commands import call

SIX = ["aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]


@pytest.fixture(scope="module")
def demo(aaebench: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    command = [aaebench, "demo", "--epochs", "2", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_summary_holds_the_papers_six_variants_with_two_seeds(demo: tuple[Path, str]) -> None:
    summary = pd.read_csv(demo[0] / "summary.csv").query("sampler == 'prior'")
    assert list(summary["variant"]) == SIX
    assert set(summary["n"]) == {2}
    for measure in ("fid", "inception_score", "sigma_mean", "noise_share"):
        assert np.isfinite(summary[f"{measure}_mean"]).all()
        assert np.isfinite(summary[f"{measure}_std"]).all()
    assert summary["protocol_id"].nunique() == 1
    assert set(summary["extractor"]) == {"domain"}


def test_it_leaves_tables_figures_and_runs(demo: tuple[Path, str]) -> None:
    out, stdout = demo
    assert stdout.splitlines()[-1] == str(out)
    assert all(variant in stdout for variant in SIX)
    runs = pd.read_csv(out / "runs.csv")
    assert runs["sampler"].value_counts().to_dict() == {"prior": 12 * 2, "reconstruction": 12}
    assert len(pd.read_csv(out / "collapse.csv")) == 12 * 2
    assert pd.read_csv(out / "problems.csv").empty
    setting = "digits at 32 px (batch_size=128, learning_rate=0.001)"
    assert f"12 runs of 6 variants on {setting}, with 2 seeds: 12 finished." in (out / "report.html").read_text()
    for name in ("figure7-samples.png", "sigma.png", "figure9-fid.png"):
        pixels = np.asarray(Image.open(out / "figures" / name))
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 10, "something is drawn"


def test_running_it_again_changes_nothing(demo: tuple[Path, str], aaebench: str) -> None:
    out, _ = demo
    before = (out / "summary.csv").read_bytes()
    subprocess.run([aaebench, "demo", "--epochs", "2", "--out", str(out)], check=True, capture_output=True)
    assert (out / "summary.csv").read_bytes() == before


def test_unknown_data_are_refused_before_anything_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["demo", "--dataset", "digit", "--out", str(tmp_path / "out")]
    assert call(lambda: app(command, result_action="return_value")) == 2
    assert "did you mean digits?" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
