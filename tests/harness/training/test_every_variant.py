"""Every variant, a user's own included, runs wherever the others do."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from harness.config import build_config
from harness.data.staging import stage_dataset
from harness.errors import InputError
from harness.evaluation.classifier import SHIPPED
from harness.train import prepare
from harness.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from harness.training.feature_network import load_feature_network
from tests.harness.data.test_staging import write_idx, write_images
from tests.harness.launch.test_processes import ROOT, finish, launch
from tests.harness.test_train import evaluated, only_folder, run
from variants import VARIANTS


def prepare_small(fields: dict[str, Any]) -> Any:
    config = build_config(
        {"dataset": "digits", "extractor": "domain", "max_images": 10 * fields["batch_size"], **fields}
    )
    engine, data, _ = prepare(config)
    batches = data.epoch(0, 0, config.batch_size, 0, 1)
    return engine, [data.batch(indices, engine.processes.device) for indices in batches]


# Maps with BatchNorm, in grey; an image discriminator beside them; equalised ones.
CONV = [
    {"variant": "aae", "architecture": "conv", "batch_size": 8, "channels": 1},
    {"variant": "vae_gan", "architecture": "conv", "batch_size": 8},
    {"variant": "combined", "architecture": "conv", "batch_size": 8, "options.equal_linear": True},
]


@pytest.mark.parametrize(
    "fields",
    [*({"variant": name, "batch_size": 32} for name in VARIANTS), *CONV],
    ids=lambda fields: f"{fields['variant']}-{fields.get('architecture', 'mlp')}",
)
def test_resumes_bit_identically(fields: dict[str, Any], tmp_path: Path) -> None:
    engine, batches = prepare_small(fields)
    for step, x in enumerate(batches):
        engine.step(x, step)
        if step == 4:
            save_checkpoint(tmp_path, Progress(0, 5), engine)
    resumed, _ = prepare_small(fields)
    assert load_checkpoint(tmp_path, resumed) == Progress(0, 5)
    for step in range(5, len(batches)):
        resumed.step(batches[step], step)
    expected, found = engine.variant.state_dict(), resumed.variant.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_gan_is_recorded_as_having_no_posterior(tmp_path: Path) -> None:
    assert run(tmp_path, "--preset", "demo", "--variant", "gan", "--epochs", "1", "--set", "max_images=256") == 0
    last = evaluated(only_folder(tmp_path), 1)
    assert last["posterior/collapse"] == "no posterior"
    assert [key for key in last if key.startswith("posterior/")] == ["posterior/collapse"]
    assert only_folder(tmp_path).read_records()[-1]["loss/generator"] > 0


class TestAUsersOwnVariant:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """A folder outside of the project with the file that the docs' page shows first."""
        page = (ROOT / "docs" / "adding-a-variant.md").read_text()
        code = page[page.index("```python") + len("```python") :]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "doubled.py").write_text(code[: code.index("```")])
        return tmp_path

    def test_works_in_sweeps_and_collectors(self, project: Path, aaebench: str) -> None:
        sweep = "grid: {variant: [aae, 'mine.doubled:Doubled'], seed: [0]}\nfixed: {preset: demo, epochs: 1}"
        (project / "sweep.yaml").write_text(sweep)
        for command in (["sweep", "submit", "sweep.yaml"], ["collect", "runs", "--out", "tables"]):
            subprocess.run([aaebench, *command], cwd=project, check=True, capture_output=True)
        summary = pd.read_csv(project / "tables" / "summary.csv").query("sampler == 'prior'").set_index("variant")
        assert set(summary.index) == {"aae", "mine.doubled:Doubled"}
        assert summary["fid_mean"].nunique() == 2, "it is not the AAE"

    def test_works_on_two_processes(self, project: Path) -> None:
        arguments = ("--variant", "mine.doubled:Doubled", "--preset", "demo", "--epochs", "1")
        finish(launch(project / "runs", 2, "-m", "harness.train", *arguments, cwd=project))
        assert only_folder(project / "runs").path.name.startswith("Doubled-digits-32px-seed0-")


class TestFeatureNetworks:
    def network(self, **fields: Any) -> Any:
        return load_feature_network(build_config({"variant": "dfc_vae", **fields}), torch.device("cpu"))

    def test_the_default_is_the_domain_classifiers_three_blocks(self) -> None:
        maps = self.network()(torch.zeros(2, 3, 64, 64))
        assert [tuple(m.shape) for m in maps] == [(2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4)]

    def test_a_torchscript_file_of_ones_own(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        torch.jit.script(torch.nn.Conv2d(3, 5, 3)).save(tmp_path / "own.pt")  # pyright: ignore
        (only,) = self.network(feature_weights=tmp_path / "own.pt")(torch.zeros(2, 3, 32, 32))
        assert only.shape == (2, 5, 30, 30)
        assert "own.pt is TorchScript, a program that runs as its author wrote it" in caplog.text
        (tmp_path / "text.pt").write_text("nothing")
        with pytest.raises(InputError, match="no TorchScript file"):
            self.network(feature_weights=tmp_path / "text.pt")

    def test_data_without_labels_need_a_file(self, tmp_path: Path, empty_cache: Path) -> None:
        stage_dataset("faces", 32, write_images(tmp_path / "faces"))
        with pytest.raises(InputError, match="--set feature_weights=FILE"):
            self.network(dataset="faces")
        assert self.network(dataset="faces", feature_weights=SHIPPED / "domain-digits.safetensors")


def test_idx_files_under_a_name_of_ones_own_from_folder_to_scores(tmp_path: Path, empty_cache: Path) -> None:
    """A part of MNIST in files of MNIST's own names, which is no MNIST."""
    stage_dataset("mnist-10k", 28, write_idx(write_idx(tmp_path / "files"), "t10k"))
    arguments = ("--dataset", "mnist-10k", "--image-size", "28", "--epochs", "1", "--set", "batch_size=10")
    weights = ("--extractor", "domain", "--set", f"extractor_weights={SHIPPED / 'domain-digits.safetensors'}")
    assert run(tmp_path / "runs", *arguments, *weights) == 0
    found = only_folder(tmp_path / "runs")
    assert found.path.name.startswith("aae-mnist-10k-28px-seed0-")
    assert evaluated(found, 1)["eval/fid"] > 0


def test_photographs_at_64_px_from_folder_to_scores(
    tmp_path: Path,
    empty_cache: Path,
    inception_file: Path,
) -> None:
    """The FFHQ and CelebA path: scikit-learn's two photographs cut into crops, in the published batch of 256."""
    folder = tmp_path / "crops"
    folder.mkdir()
    random, photographs = np.random.default_rng(0), load_sample_images().images
    for number in range(520):
        photograph = photographs[number % 2]
        top, left = random.integers(0, photograph.shape[0] - 128), random.integers(0, photograph.shape[1] - 128)
        crop = Image.fromarray(photograph[top : top + 128, left : left + 128])
        crop.save(folder / f"{number:05d}.jpg")
    stage_dataset("celeba", 64, folder)
    arguments = ("--dataset", "celeba", "--image-size", "64", "--epochs", "3", "--learning-rate", "1e-3")
    weights = ("--extractor", "inception", "--set", f"extractor_weights={inception_file}")
    assert run(tmp_path / "runs", *arguments, *weights, "--set", "eval_every=3") == 0
    found = only_folder(tmp_path / "runs")
    assert found.read_config()["batch_size"] == 256
    first, last = evaluated(found, 0), evaluated(found, 3)
    assert last["eval/fid"] < first["eval/fid"]
    assert last["posterior/reconstruction_l1"] < first["posterior/reconstruction_l1"]
    assert Image.open(found.samples / "epoch-000003.png").size == (512, 512)
