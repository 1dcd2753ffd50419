"""Runs that differ in how they were trained are never averaged, and never stand together without a word about it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import results.read.index
from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.fields import FIELDS
from results.compute.summary import summarise
from results.read.collect import collect
from results.read.labels import name_place
from results.read.schema import IN_TRAINING, RUNS, Column, arrow_schema
from tests.results.runs import evaluation, write_campaign, write_run

OTHER = {
    "optimizer": "adamw",
    "betas": [0.5, 0.999],
    "weight_decay": 0.01,
    "gradient_clipping": 1.0,
    "gradient_accumulation": 2,
    "ema_decay": 0.999,
    "sync_batchnorm": True,
    "crop": "center",
    "feature_sha256": "ab",
}
WRITTEN = {name: value for name, value in OTHER.items() if name != "feature_sha256"} | {"weight_decay": 0.1}
USUAL: dict[str, Any] = {name: FIELDS[name].default_among({}) for name in IN_TRAINING}
FIDS = {"aae": [10.0, 11.0, 12.0]}


def run(*arguments: object) -> int:
    return call(lambda: app([str(argument) for argument in arguments], result_action="return_value"))


def cells(root: Path) -> list[int]:
    """The number of seeds of each cell."""
    return summarise(collect(root).runs)["n"].tolist()


def trainings(root: Path) -> set[str]:
    return set(collect(root).runs["training"])


class TestCells:
    @pytest.mark.parametrize("name", IN_TRAINING)
    def test_a_run_that_differs_in_one_field_is_no_seed_of_the_others(self, tmp_path: Path, name: str) -> None:
        write_run(tmp_path, "plain", {10: evaluation(5)}, seed=0)
        write_run(tmp_path, "other", {10: evaluation(9)}, seed=1, **{name: OTHER[name]})
        assert cells(tmp_path) == [1, 1]

    def test_runs_that_differ_in_value_are_told_apart_too(self, tmp_path: Path) -> None:
        for seed, decay in enumerate((0.99, 0.999, 0.999)):
            write_run(tmp_path, f"run{seed}", {10: evaluation(5)}, seed=seed, ema_decay=decay)
        assert sorted(cells(tmp_path)) == [1, 2]

    def test_a_folder_without_the_fields_is_a_seed_of_those_with_the_defaults(self, tmp_path: Path) -> None:
        write_run(tmp_path, "old", {10: evaluation(5)}, seed=0)
        write_run(tmp_path, "new", {10: evaluation(7)}, seed=1, **USUAL)
        assert cells(tmp_path) == [2]
        assert trainings(tmp_path) == {"{}"}

    @pytest.mark.parametrize(
        ("name", "one", "other"),
        [("weight_decay", 0, 0.0), ("gradient_clipping", 1, 1.0), ("betas", [0, 0.9], [0.0, 0.9])],
    )
    def test_the_same_number_written_otherwise_is_the_same_cell(
        self, tmp_path: Path, name: str, one: Any, other: Any
    ) -> None:
        for seed, value in enumerate((one, other)):
            write_run(tmp_path, f"run{seed}", {10: evaluation(5)}, seed=seed, **{name: value})
        assert cells(tmp_path) == [2]

    def test_a_published_data_set_that_is_not_whole_is_named_wherever_its_runs_are(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path, "part", {10: evaluation(5)}, dataset="mnist")
        write_run(tmp_path, "whole", {10: evaluation(5)}, dataset="mnist", seed=1)
        data = {"whole": False, "n_prepared": 9000, "n_expected": 60000}
        folder.write_environment({**folder.read_environment(), "data": data})
        assert cells(tmp_path) == [1, 1]
        places = {row["run_id"]: name_place(row) for _, row in collect(tmp_path).runs.iterrows()}
        assert places == {"part": "mnist 32 px (data=9000 of 60000 images)", "whole": "mnist 32 px"}

    def test_the_column_holds_what_differs_and_nothing_else(self, tmp_path: Path) -> None:
        fields = {**USUAL, "optimizer": "adamw", "betas": [0.5, 0.999], "gradient_clipping": 1.0}
        write_run(tmp_path, "run", {10: evaluation(5)}, **fields)
        differing = {"betas": [0.5, 0.999], "gradient_clipping": 1, "optimizer": "adamw", "weight_decay": 0}
        assert trainings(tmp_path) == {json.dumps(differing)}

    @pytest.mark.parametrize(
        ("chosen", "differing"),
        [({}, {}), ({"optimizer": "adamw"}, {"optimizer": "adamw"}), (WRITTEN, {**WRITTEN, "weight_decay": 0.1})],
    )
    def test_it_reads_what_the_harness_writes(
        self, tmp_path: Path, chosen: dict[str, Any], differing: dict[str, Any]
    ) -> None:
        written = build_config(chosen).model_dump(mode="json")
        write_run(tmp_path, "run", {10: evaluation(5)}, **{name: written[name] for name in USUAL})
        (training,) = trainings(tmp_path)
        assert json.loads(training) == differing


def test_an_index_without_the_column_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, "run", {10: evaluation(5)}, ema_decay=0.999)
    for file in tmp_path.rglob("*.json*"):
        os.utime(file, (time.time() - 3600, time.time() - 3600))
    older = [Column("folder", "string", ""), *(column for column in RUNS if column.name != "training")]
    with monkeypatch.context() as before:
        before.setattr(results.read.index, "SCHEMA", arrow_schema(older))
        index = results.read.index.load_index(tmp_path, results.read.index.scan(tmp_path))
        assert "training" not in index.table.column_names
    assert trainings(tmp_path) == {'{"ema_decay": 0.999}'}


class TestCompare:
    def write(self, root: Path, **config: Any) -> Path:
        write_campaign(root / "runs", FIDS, **config)
        assert run("collect", root / "runs", "--out", root / "tables") == 0
        return root / "tables"

    def test_a_setting_in_which_both_differ_as_wholes_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plain, averaged = self.write(tmp_path / "a"), self.write(tmp_path / "b", ema_decay=0.999)
        assert run("compare", plain, averaged, "--out", tmp_path / "out") == 0
        assert 'training: {} in A, {"ema_decay": 0.999} in B' in capsys.readouterr().out
        assert set(pd.read_csv(tmp_path / "out" / "compare.csv")["verdict"]) == {"identical"}

    def test_runs_are_paired_with_those_of_the_same_training(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = tmp_path / "both"
        write_campaign(both, FIDS)
        write_campaign(both, {"aae": [20.0, 21.0, 22.0]}, prefix="ema-", ema_decay=0.999)
        assert run("compare", self.write(tmp_path / "a"), both, "--out", tmp_path / "out") == 0
        assert set(pd.read_csv(tmp_path / "out" / "compare.csv")["verdict"]) == {"identical"}
        assert "only in B: aae on digits" in capsys.readouterr().out
