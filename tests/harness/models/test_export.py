"""A trained model is loaded and exported as it was trained, and its card says what it is."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import harness
from harness.errors import InputError
from harness.models import load as trained_module
from harness.models.export import write_export
from harness.record import RunFolder, find_run_folders
from harness.training.checkpoint import find_checkpoint
from tests.harness.test_train import ROOT
from tests.harness.trained import assert_same, command, listing, train_briefly
from variants import VARIANTS

OWN = '''
import torch
from torch import nn
from variants.aae import AAE

class Refined(AAE):
    """The AAE with a network after its decoder, and a number of its own."""

    def build_networks(self, options):
        super().build_networks(options)
        self.refiner = nn.Conv2d(3, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(()))

    def phases(self):
        phases = super().phases()
        return phases | {"refining": type(phases["adversary"])(self.reconstruction_loss, updates=(self,))}

    def decode(self, z):
        return torch.tanh(self.scale * self.refiner(super().decode(z)))
'''


class TestEveryVariant:
    @pytest.mark.parametrize(
        "fields", [*({"variant": name} for name in VARIANTS), {"architecture": "conv", "batch_size": 8}], ids=str
    )
    def test_is_loaded_and_exported_as_it_was_trained(self, fields: dict[str, Any], here: Path) -> None:
        folder, engine, _ = train_briefly(here / "runs", **fields)
        state = torch.get_rng_state()
        loaded, exported = harness.load(folder.path), harness.load(write_export(folder.path, "best"))
        assert torch.equal(torch.get_rng_state(), state), "loading draws nothing from the caller's random numbers"
        images = loaded.decode(loaded.sample_prior(3))
        assert images.shape == (3, 3, 32, 32)
        assert not images.requires_grad
        assert not loaded.training
        assert_same(loaded, engine.variant)
        assert_same(exported, engine.variant)
        assert {"discriminator"}.isdisjoint(name for name, _ in exported.named_children())

    def test_is_loaded_to_a_device(self, brief_run: Path) -> None:
        """`meta` stands for a GPU here: it has no numbers, but a mixture of devices fails on it all the same."""
        model = harness.load(str(brief_run), device="meta")
        assert model.decode(model.sample_prior(2)).device.type == "meta"

    def test_of_a_users_own_needs_to_name_nothing(self, here: Path) -> None:
        (here / "own_refined.py").write_text(OWN)
        folder, engine, _ = train_briefly(here / "runs", variant="own_refined:Refined")
        exported = write_export(folder.path, "latest", trust_code=True)
        assert_same(harness.load(exported, trust_code=True), engine.variant)
        weights = load_file(exported / "model.safetensors")
        assert {name.split(".")[0] for name in weights} == {"encoder", "decoder", "refiner", "scale"}
        assert "The AAE with a network after its decoder" in (exported / "README.md").read_text()


class TestExport:
    def test_its_card_has_the_scores_with_their_protocol(self, finished_run: Path, here: Path) -> None:
        assert command("export", str(finished_run)) == 0
        folder = here / f"{finished_run.name}-export"
        assert {file.name for file in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
        card, run = (folder / "README.md").read_text(), RunFolder(finished_run)
        (evaluation,) = run.find_evaluations()
        posterior, prior, reconstruction = evaluation.read()[-3:]
        assert "The adversarial autoencoder (Makhzani et al. 2015; paper, section 3.1 and Fig. 1)." in card
        assert "digits: 320 training images at 32 px, 3 channels" in card
        assert "epoch 2 of 2" in card
        assert "images seen: 640" in card
        for fact in (evaluation.protocol_id, "domain"):
            assert f"`{fact}`" in card
        assert f"| prior | {prior['eval/fid']:.4g} |" in card
        assert f"| reconstruction | {reconstruction['eval/fid']:.4g} |" in card
        assert f"mean sigma: {posterior['posterior/sigma_mean']:.4g}" in card
        assert f"collapse: {posterior['posterior/collapse']}" in card
        assert run.read_environment()["git_commit"] in card

    def test_its_cards_three_lines_run(self, brief_run: Path, here: Path) -> None:
        card = (write_export(brief_run, "best", Path("model")) / "README.md").read_text()
        code = card[card.index("```python\n") + len("```python\n") :].split("```")[0]
        assert len(code.splitlines()) == 3
        check = f"{code}\nassert images.shape == (64, 3, 32, 32) and images.abs().max() <= 1"
        subprocess.run([sys.executable, "-c", check], check=True, cwd=here, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def test_of_a_state_within_an_epoch_has_no_scores(self, brief_run: Path, here: Path) -> None:
        card = (write_export(brief_run, "latest") / "README.md").read_text()
        assert card.count("This state was not evaluated.") == 2
        assert "epoch 0 of 40 and 3 steps of the next" in card
        assert "FID" not in card

    def test_takes_averages_of_the_weights_where_there_are_some(self, here: Path) -> None:
        folder, engine, _ = train_briefly(here / "runs", ema_decay=0.9)
        averages = load_file(folder.checkpoints / "latest" / "ema.safetensors")
        exported = write_export(folder.path, "best")
        for source in (folder.path, exported):
            found = harness.load(source).state_dict()
            assert all(torch.equal(found[name], tensor) for name, tensor in averages.items())
            assert not torch.equal(
                found["decoder.body.0.weight"], engine.variant.get_parameter("decoder.body.0.weight")
            )
        assert "exponential moving averages" in (exported / "README.md").read_text()

    def test_is_no_run_for_collectors(self, finished_run: Path, here: Path) -> None:
        write_export(finished_run, "best", here / "model")
        assert list(find_run_folders(here)) == []

    def test_replaces_only_an_export_of_the_same_run(
        self, finished_run: Path, brief_run: Path, here: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (here / "model").mkdir()
        for source in (finished_run, finished_run):
            assert command("export", str(source), "--out", "model") == 0
        before = listing(here)
        assert command("export", str(brief_run), "--out", "model") == 2
        assert f"is no export of {brief_run.name}" in capfd.readouterr().err
        assert command("export", "model", "--out", "copy") == 2
        assert "is an export already" in capfd.readouterr().err
        assert listing(here) == before
        (here / "model" / "notes.txt").write_text("mine")
        assert command("export", str(finished_run), "--out", "model") == 2
        assert command("export", str(finished_run), "--out", "model/notes.txt") == 2
        assert command("export", str(finished_run), "--out", str(finished_run)) == 2
        assert (here / "model" / "notes.txt").read_text() == "mine"


class TestWhichCheckpoint:
    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> Path:
        for name in ("epoch-000002-step-000000", "epoch-000010-step-000000"):
            (tmp_path / name).mkdir()
        return tmp_path

    def test_links_decide(self, checkpoints: Path) -> None:
        (checkpoints / "best").symlink_to("epoch-000002-step-000000")
        (checkpoints / "latest").symlink_to("epoch-000010-step-000000")
        assert find_checkpoint(checkpoints, "best").name == "epoch-000002-step-000000"
        assert find_checkpoint(checkpoints, "latest").name == "epoch-000010-step-000000"

    def test_there_is_no_best_before_an_evaluation(self, checkpoints: Path) -> None:
        (checkpoints / "latest").symlink_to("epoch-000010-step-000000")
        with pytest.raises(InputError, match="has been evaluated yet; ask for the latest"):
            find_checkpoint(checkpoints, "best")

    def test_a_link_that_leads_nowhere(self, checkpoints: Path) -> None:
        (checkpoints / "latest").symlink_to("epoch-000011-step-000000")
        with pytest.raises(InputError, match="is not there"):
            find_checkpoint(checkpoints, "latest")

    def test_one_that_a_run_under_way_replaces_is_looked_for_again(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, engine, _ = train_briefly(here / "runs")
        first = (folder.checkpoints / "latest").resolve()
        read = trained_module.read_weights

        def replace_and_read(checkpoint: Path) -> Any:
            if checkpoint == first:
                (folder.checkpoints / "latest").unlink()
                (folder.checkpoints / "latest").symlink_to(first.rename(first.with_name("epoch-000001-step-000000")))
            return read(checkpoint)

        monkeypatch.setattr(trained_module, "read_weights", replace_and_read)
        assert_same(harness.load(folder.path, "latest"), engine.variant)
