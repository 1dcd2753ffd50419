"""Mechanisms are measured of a trained run: at its last evaluation where it asks for it, or on demand afterwards."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import build_config
from harness.errors import InputError
from harness.evaluation.evaluate import Evaluator
from harness.evaluation.mechanisms.disentanglement import (
    dci_disentanglement,
    factorvae_score,
    mutual_information_gap,
    total_correlation,
    varying,
)
from harness.evaluation.posterior import compute_posterior
from harness.measures import select
from harness.readings import MECHANISMS
from harness.record import RunFolder, key_of
from harness.schema import check_evaluation
from harness.seeding import build_generator, derive_seed
from harness.train import prepare
from results.read.collect import collect
from tests.harness.launch.test_processes import finish, launch
from tests.harness.test_train import SHORT, only_folder, run
from tests.harness.trained import command
from variants import AutoEncoder

ASKED = ("--set", "mechanisms=true")
OF_FACTORS = {"mig", "dci", "factorvae"}
ALWAYS = {measure.name for measure in select("mechanism") if not measure.name.startswith("mapped_")}
ALWAYS -= OF_FACTORS | {"probe_accuracy"}


def measure(**fields: Any) -> tuple[dict[str, float], Evaluator, AutoEncoder]:
    """What an untrained variant's mechanisms do, without their group's name."""
    engine, _, (evaluator,) = prepare(build_config({"preset": "demo", "batch_size": 32, "max_images": 400, **fields}))
    variant = engine.variant
    assert isinstance(variant, AutoEncoder)
    (line,) = evaluator.evaluate(variant, 0, [MECHANISMS])
    check_evaluation([{"epoch": 0, "images_seen": 0, **line}])
    return {name.partition("/")[2]: value for name, value in line.items() if "mechanism/" in name}, evaluator, variant


def read_mechanisms(folder: RunFolder) -> dict[int, dict[str, Any]]:
    (evaluation,) = folder.find_evaluations()
    return {line["epoch"]: line for line in evaluation.read() if "part" in line}


class TestWhatIsMeasured:
    def test_labels_are_probed_where_there_are_no_factors(self) -> None:
        values, _, _ = measure()
        assert values.keys() == ALWAYS | {"probe_accuracy"}
        assert 0 <= values["probe_accuracy"] <= 1

    def test_factors_are_asked_about_where_there_are_some(self) -> None:
        values, evaluator, variant = measure(dataset="sprites", image_size=16)
        assert values.keys() == ALWAYS | OF_FACTORS
        posterior = compute_posterior(variant, evaluator.data, evaluator.reading, 0, evaluator.processes)
        assert posterior is not None
        assert evaluator.data.factors is not None
        expected = mutual_information_gap(posterior.mu, varying(evaluator.data.factors.numbers))
        assert values["mig"] == pytest.approx(expected)

    def test_mapped_codes_are_measured_where_a_variant_maps_them(self) -> None:
        values, _, _ = measure(variant="latent_mapping", dataset="sprites", image_size=16)
        mapped = {name for name in values if name.startswith("mapped_")}
        assert mapped == {"mapped_total_correlation", *(f"mapped_{name}" for name in OF_FACTORS)}
        assert values["mapped_total_correlation"] > values["total_correlation"]
        none, _, _ = measure(variant="latent_mapping", **{"options.depth": 0})
        assert not [name for name in none if name.startswith("mapped_")]

    def test_the_mapped_ones_are_those_of_what_the_mapping_makes_of_mu_and_of_z(self) -> None:
        values, evaluator, variant = measure(variant="latent_mapping", dataset="sprites", image_size=16)
        posterior = compute_posterior(variant, evaluator.data, evaluator.reading, 0, evaluator.processes)
        assert posterior is not None
        assert evaluator.data.factors is not None
        noise = torch.randn(posterior.mu.shape, generator=build_generator(0, "mechanisms"), dtype=torch.float64)
        with torch.no_grad():
            mapped_mu, mapped_z = (
                variant.get_submodule("mapping")(codes.float()).double()
                for codes in (posterior.mu, posterior.mu + posterior.sigma * noise)
            )
        factors, own = varying(evaluator.data.factors.numbers), derive_seed(0, "mechanisms", 1)
        expected = {
            "mapped_mig": mutual_information_gap(mapped_mu, factors),
            "mapped_dci": dci_disentanglement(mapped_mu, factors, own),
            "mapped_factorvae": factorvae_score(mapped_mu, factors, torch.Generator().manual_seed(own)),
            "mapped_total_correlation": total_correlation(torch.cov(mapped_z.T)),
        }
        assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        assert all(values[name.removeprefix("mapped_")] != pytest.approx(expected[name]) for name in expected)

    @pytest.mark.parametrize("latent_dim", [1, 64])
    def test_codes_of_few_and_of_many_dimensions(self, latent_dim: int) -> None:
        values, _, _ = measure(latent_dim=latent_dim, dataset="sprites", image_size=16)
        assert values.keys() == ALWAYS | OF_FACTORS
        assert all(torch.tensor(value).isfinite() for value in values.values())

    def test_they_repeat(self) -> None:
        first, second = (measure(seed=3)[0] for _ in range(2))
        assert second == pytest.approx(first, rel=1e-4)


class TestWhenItIsMeasured:
    def test_nobody_pays_for_what_was_not_asked_for(self, finished_run: Path) -> None:
        assert not read_mechanisms(RunFolder(finished_run))
        assert build_config({}).mechanisms is False

    def test_a_run_measures_them_at_its_last_epoch_and_an_evaluation_afterwards_the_same(self, tmp_path: Path) -> None:
        assert run(tmp_path / "asked", *SHORT, "--epochs", "2", *ASKED) == 0
        assert run(tmp_path / "later", *SHORT, "--epochs", "2") == 0
        asked, later = only_folder(tmp_path / "asked"), only_folder(tmp_path / "later")
        assert asked.path.name == later.path.name, "it is the same training"
        assert command("evaluate", str(later.path), *ASKED) == 0
        first, second = read_mechanisms(asked), read_mechanisms(later)
        assert first.keys() == second.keys() == {2}
        for name, value in first[2].items():
            assert name.startswith("time/") or second[2][name] == pytest.approx(value), name
        (evaluation,) = later.find_evaluations()
        check_evaluation(evaluation.read())
        table = collect(tmp_path / "asked").runs
        last = table[(table["epoch"] == 2) & (table["sampler"] == "prior")].iloc[0]
        assert last["code_shift_2px"] == first[2]["mechanism/code_shift_2px"]
        assert table.loc[table["epoch"] == 0, "code_shift_2px"].isna().all()
        assert set(table["sampler"]) == {"prior", "reconstruction"}

    def test_only_what_is_missing_is_measured(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--epochs", "2", *ASKED) == 0
        assert command("evaluate", str(tmp_path), *ASKED) == 0
        assert "1 had all of it" in capfd.readouterr().err
        folder = only_folder(tmp_path)
        assert command("show", str(folder.path)) == 0
        assert "codes from prior, reconstruction; mechanisms; epochs 0, 2" in capfd.readouterr().out

    def test_two_processes_measure_what_one_does(self, tmp_path: Path, finished_run: Path) -> None:
        folders = [RunFolder(tmp_path / name / finished_run.name) for name in ("one", "two")]
        for folder in folders:
            shutil.copytree(finished_run, folder.path, symlinks=True)
        assert command("evaluate", str(folders[0].path), *ASKED) == 0
        finish(launch(None, 2, "-m", "aaebench", "evaluate", str(folders[1].path), *ASKED))
        one, two = (
            {name: value for name, value in read_mechanisms(folder)[2].items() if not name.startswith("time/")}
            for folder in folders
        )
        assert {**two, "part": 0} == pytest.approx({**one, "part": 0}, rel=1e-4)


class TestBadInput:
    def test_a_variant_without_an_encoder_has_none(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run(tmp_path, *SHORT, "--variant", "gan", *ASKED) == 2
        assert (
            "gan has no encoder whose mechanisms could be measured; leave mechanisms at false" in capfd.readouterr().err
        )
        assert not list(tmp_path.iterdir())
        assert run(tmp_path, *SHORT, "--variant", "gan", "--epochs", "1") == 0
        assert command("evaluate", str(tmp_path), *ASKED) == 2
        assert "gan has no encoder" in capfd.readouterr().err

    def test_nor_has_it_for_who_uses_the_evaluator(self) -> None:
        engine, _, (evaluator,) = prepare(build_config({"preset": "demo", "variant": "gan", "max_images": 128}))
        with pytest.raises(InputError, match="has no encoder"):
            evaluator.evaluate(engine.variant, 0, [MECHANISMS])

    def test_a_truth_value_is_asked_for(self) -> None:
        with pytest.raises(InputError, match="mechanisms = 'maybe'"):
            build_config({"mechanisms": "maybe"})

    def test_two_requests_of_one_training_are_one_that_measures_them(self) -> None:
        plain, asked = build_config({}), build_config({"mechanisms": True})
        assert plain.run_id == asked.run_id
        assert plain.widen(asked).mechanisms


def test_a_line_of_mechanisms_is_about_no_sampler() -> None:
    assert key_of({"epoch": 3, "part": "mechanisms"}) == (3, *MECHANISMS)
