"""More seeds where they decide something: looks that are paid for, and the sweep file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.fields import FIELDS
from results.commands import load_collection
from results.compute.across_datasets import combine
from results.compute.analysis import analyse
from results.compute.looks import LOOKS, compute_level, load_looks, spend
from results.compute.seeds import describe_seeds
from results.compute.statistics import ALPHA
from results.compute.summary import reported_rows
from slurm.sweep import load_sweep
from tests.results.runs import evaluation, write_campaign, write_run

CAMPAIGN = {
    "aae": [30.0, 31.0],
    "n_iter": [28.3, 29.2],
    "latent_mapping": [33.6, 32.1],
    "kld_loss": [60.1, 58.9],
    "feature": [89.8, 92.0],
}


def extend(*arguments: object) -> int:
    command = ["sweep", "extend", *map(str, arguments)]
    return call(lambda: app(command, result_action="return_value"))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_campaign(tmp_path / "runs", CAMPAIGN)
    return tmp_path / "runs"


def read(file: Path) -> set[tuple[str, int]]:
    return {(run["variant"], run["seed"]) for run in yaml.safe_load(file.read_text())["grid"]["run"]}


class TestExtend:
    def test_only_what_is_undecided_gets_seeds_and_the_aae_beside_it(self, runs: Path, tmp_path: Path) -> None:
        assert extend(runs, "--until-decided", "--at-most", 4, "--out", tmp_path / "more.yaml") == 0
        added = read(tmp_path / "more.yaml")
        assert {variant for variant, _ in added} == {"aae", "n_iter", "latent_mapping"}
        assert ("aae", 2) in added
        assert max(seed for _, seed in added) <= 3

    def test_without_looking_every_cell_is_filled(self, runs: Path, tmp_path: Path) -> None:
        assert extend(runs, "--at-most", 3, "--out", tmp_path / "more.yaml") == 0
        assert read(tmp_path / "more.yaml") == {(variant, 2) for variant in CAMPAIGN}
        assert not (runs / LOOKS).exists(), "nothing was decided by the data"

    def test_a_collection_names_its_runs(self, runs: Path, tmp_path: Path) -> None:
        assert (
            call(lambda: app(["collect", str(runs), "--out", str(tmp_path / "c")], result_action="return_value")) == 0
        )
        assert extend(tmp_path / "c", "--at-most", 3, "--out", tmp_path / "more.yaml") == 0
        assert len(read(tmp_path / "more.yaml")) == len(CAMPAIGN)

    def test_the_file_is_a_sweep_of_the_same_runs_but_for_their_seeds(self, runs: Path, tmp_path: Path) -> None:
        assert extend(runs, "--at-most", 3, "--out", tmp_path / "more.yaml") == 0
        content: Any = yaml.safe_load((tmp_path / "more.yaml").read_text())
        config = json.loads((runs / "aae-digits-32-seed0" / "config.json").read_text())
        merged = content["fixed"] | content["grid"]["run"][0]
        defaults = {name: field.default_among(config) for name, field in FIELDS.items() if name in config}
        assert {**defaults, **merged, "seed": 0, "sweep": config["sweep"]} == {**defaults, **config}

    def test_the_file_is_short(self, runs: Path, tmp_path: Path) -> None:
        """What is at its default is left out, and no value stands for another (&id001)."""
        assert extend(runs, "--at-most", 3, "--out", tmp_path / "more.yaml") == 0
        text = (tmp_path / "more.yaml").read_text()
        assert "&id" not in text
        merged: Any = yaml.safe_load(text)["fixed"]
        assert not {"weight_decay", "gradient_clipping", "step"} & merged.keys(), "written, though at their defaults"

    def test_the_runs_that_it_adds_are_of_the_same_cells(self, tmp_path: Path) -> None:
        """As the sweep's own reader has it: an added run differs from its cell's in the seed alone."""
        for variant in ("aae", "n_iter"):
            for seed in (0, 1):
                config = build_config({"variant": variant, "seed": seed, "epochs": 3})
                asked = config.model_dump(mode="json")
                write_run(tmp_path / "runs", config.run_id, {10: evaluation(9.0 + seed)}, **asked)
        assert extend(tmp_path / "runs", "--at-most", 3, "--out", tmp_path / "more.yaml") == 0
        added = {config.run_id for config in load_sweep(tmp_path / "more.yaml").configs}
        assert added == {build_config({"variant": variant, "seed": 2}).run_id for variant in ("aae", "n_iter")}

    def test_looking_again_at_the_same_runs_is_no_further_look(self, runs: Path, tmp_path: Path) -> None:
        for _ in range(2):
            assert extend(runs, "--until-decided", "--at-most", 4, "--out", tmp_path / "more.yaml") == 0
        (look,) = load_looks(runs)
        levels = {seen["level"] for seen in look.comparisons.values()}
        assert levels == {spend(2, 4)}

    def test_later_reports_judge_at_the_levels_that_looks_leave(self, runs: Path, tmp_path: Path) -> None:
        assert extend(runs, "--until-decided", "--at-most", 4, "--out", tmp_path / "more.yaml") == 0
        more = {"aae": [30.0, 31.0, 30.4], "n_iter": [28.3, 29.2, 28.5]}
        write_campaign(tmp_path / "third", more)
        for variant in more:
            name = f"{variant}-digits-32-seed2"
            (tmp_path / "third" / name).rename(runs / name)
        table = analyse(load_collection(runs), looks=load_looks(runs)).comparisons
        fid = table[table["measure"] == "fid"].set_index("variant")
        assert fid.loc["n_iter", "level"] == pytest.approx(spend(3, 4) - spend(2, 4))
        assert fid.loc["kld_loss", "verdict"] == "worse", "what was decided stays decided"
        assert fid.loc["kld_loss", "level"] == pytest.approx(spend(2, 4))

    def test_a_cut_line_is_no_look(self, runs: Path, tmp_path: Path) -> None:
        assert extend(runs, "--until-decided", "--at-most", 4, "--out", tmp_path / "more.yaml") == 0
        whole = (runs / LOOKS).read_text()
        (runs / LOOKS).write_text(whole + whole[:40])
        assert len(load_looks(runs)) == 1


class TestBadInput:
    def test_another_number_than_the_looks_were_planned_for(
        self, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        assert extend(runs, "--until-decided", "--at-most", 4, "--out", tmp_path / "more.yaml") == 0
        assert extend(runs, "--until-decided", "--at-most", 8, "--out", tmp_path / "other.yaml") == 2
        assert "--at-most 4" in capfd.readouterr().err
        assert not (tmp_path / "other.yaml").exists()

    def test_a_damaged_record_of_looks(self, runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (runs / LOOKS).write_text("{}\n")
        assert extend(runs, "--until-decided", "--at-most", 4) == 2
        assert "is damaged" in capfd.readouterr().err

    @pytest.mark.parametrize("arguments", [("--at-most", 1), ("--at-most", 4, "--margin", 0)])
    def test_numbers_that_decide_nothing(self, runs: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
        assert extend(runs, *arguments, "--out", tmp_path / "more.yaml") == 2
        assert not (tmp_path / "more.yaml").exists()

    @pytest.mark.parametrize("command", ["collect", "report"])
    def test_a_margin_of_nothing(self, runs: Path, tmp_path: Path, command: str) -> None:
        arguments = [command, str(runs), "--out", str(tmp_path / "out"), "--margin", "0"]
        assert call(lambda: app(arguments, result_action="return_value")) == 2
        assert not (tmp_path / "out").exists()

    def test_nothing_to_decide(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "runs", {"n_iter": [3.0]})
        assert extend(tmp_path / "runs", "--at-most", 4) == 2
        assert "no variant beside an AAE" in capfd.readouterr().err


def test_the_levels_of_all_looks_add_up_to_5_percent() -> None:
    past: list[tuple[float, float]] = []
    for n in (2, 3, 5, 8):
        past.append((n, compute_level(n, past, 8)))
    assert sum(level for _, level in past) == pytest.approx(ALPHA)
    assert compute_level(3, past, 8) == past[1][1], "the same runs again cost nothing"


def test_the_plan_says_what_its_seeds_will_find(runs: Path) -> None:
    reported = reported_rows(load_collection(runs).runs)
    lines = describe_seeds(reported, {"mnist": 2, "digits": 8, "emnist": 1}, variants=5)
    assert lines[0].startswith("emnist: one seed a cell says nothing")
    assert lines[1].startswith("mnist: 2 seeds find an FID that is")
    seen = describe_seeds(reported.assign(extractor="efficientnet_lite0"), {"mnist": 2}, variants=5)
    assert seen[0].startswith("mnist: 2 seeds find an FID (EfficientNet-Lite0) that is")
    two, eight = (float(line.split("that is ")[1].split("%")[0]) for line in lines[1:])
    assert eight < two
    assert describe_seeds(reported.iloc[:2], {"mnist": 2}, 5)[0].endswith("before 4 cells of two seeds have been run")


def test_sweep_plan_ends_with_it(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    grid = "grid: {variant: [aae, n_iter], seed: [0, 1, 2]}\nfixed: {epochs: 1}\n"
    (tmp_path / "three.yaml").write_text(grid)
    arguments = ["sweep", "plan", str(tmp_path / "three.yaml"), "--out", str(runs), "--executor", "local"]
    assert call(lambda: app(arguments, result_action="return_value")) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("digits: 3 seeds find an FID that is")


class TestOverDataSets:
    def test_effects_that_agree_are_pooled(self) -> None:

        found = combine(np.array([0.20, 0.22, 0.19, 0.21]), np.full(4, 0.03))
        assert found["effect"] == pytest.approx(0.205)
        assert found["between"] == 0
        assert 0 < found["effect_low"] < 0.2 < found["effect_high"]

    def test_a_variant_is_compared_over_its_data_sets(self, tmp_path: Path) -> None:
        for place, dataset in enumerate(("mnist", "emnist", "cifar10")):
            shifted = {name: [fid * (1 + place) for fid in fids] for name, fids in CAMPAIGN.items()}
            write_campaign(tmp_path, shifted, dataset=dataset, protocol_id=f"paper-{dataset}")
        across = analyse(load_collection(tmp_path)).frames["across_datasets"]
        row = across[(across["measure"] == "fid") & (across["variant"] == "kld_loss")].iloc[0]
        assert row["datasets"] == 3
        assert row["ratio"] == pytest.approx(1.95, abs=0.01)
        assert 1 < row["ratio_low"] < row["ratio"] < row["ratio_high"]
        best = analyse(load_collection(tmp_path)).frames["best"]
        n_iter = best[(best["variant"] == "n_iter") & (best["measure"] == "fid")]
        assert (n_iter["probability"] > 0.8).all()
        sums = best[best["measure"] == "fid"].groupby("dataset")["probability"].sum()
        assert sums.to_numpy() == pytest.approx(1)
