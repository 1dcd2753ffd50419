"""`aaebench compare`: beyond noise or not, and what a continuous integration may rely on."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from tests.results.runs import edit_evaluations, evaluation, trained_on, write_campaign, write_run

BEFORE = {"aae": [10.0, 11.0, 12.0], "n_iter": [8.0, 9.0, 10.0]}
NOISE = {"aae": [10.4, 10.7, 12.1], "n_iter": [8.2, 8.7, 10.2]}
WORSE = {"aae": [12.0, 13.05, 13.98], "n_iter": [8.2, 8.7, 10.2]}


def run(*arguments: object) -> int:
    return call(lambda: app([str(argument) for argument in arguments], result_action="return_value"))


def compare(*arguments: object) -> int:
    return run("compare", *arguments)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    write_campaign(tmp_path / "before", BEFORE)
    return tmp_path / "before"


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "compare.csv").set_index(["variant", "measure"])


def test_the_same_numbers_are_identical(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_campaign(tmp_path / "again", BEFORE)
    assert compare(before, tmp_path / "again") == 0
    assert "10 identical of 10 comparisons" in capsys.readouterr().out


def test_noise_is_no_change(before: Path, tmp_path: Path) -> None:
    write_campaign(tmp_path / "noise", NOISE)
    assert compare(before, tmp_path / "noise", "--out", tmp_path / "out", "--threshold", 0) == 0
    table = read(tmp_path / "out")
    assert table.loc[("aae", "fid"), "verdict"] == "equivalent"
    row: Any = table.loc[("aae", "fid")]
    assert row["p_holm"] > 0.05
    assert table.loc[("aae", "fid"), "n"] == 3


def test_a_regression_beyond_the_threshold_exits_with_1(
    before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_campaign(tmp_path / "worse", WORSE)
    assert compare(before, tmp_path / "worse", "--out", tmp_path / "out") == 1
    captured = capfd.readouterr()
    assert "1 regressions beyond 5%: aae on digits 32 px, prior: fid" in captured.err
    assert "worse, regression" in captured.out
    row: Any = read(tmp_path / "out").loc[("aae", "fid")]
    assert row["relative"] == pytest.approx((12.0 + 13.05 + 13.98 - 33) / 33)
    assert row["low"] > 0


def test_a_real_change_below_the_threshold_is_told_and_passes(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_campaign(tmp_path / "worse", WORSE)
    assert compare(before, tmp_path / "worse", "--threshold", 0.5) == 0
    assert "worse" in capsys.readouterr().out


def test_an_improvement_is_no_regression(before: Path, tmp_path: Path) -> None:
    write_campaign(tmp_path / "worse", WORSE)
    assert compare(tmp_path / "worse", before, "--threshold", 0) == 0


def test_with_one_seed_the_threshold_alone_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_campaign(tmp_path / "a", {"aae": [10.0]})
    write_campaign(tmp_path / "b", {"aae": [10.4]})
    assert compare(tmp_path / "a", tmp_path / "b") == 0
    assert "n = 1" in capsys.readouterr().out
    assert compare(tmp_path / "a", tmp_path / "b", "--threshold", 0.01) == 1


def test_two_precisions_are_paired_and_named(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_campaign(tmp_path / "bf16", NOISE, mixed_precision="bf16")
    assert compare(before, tmp_path / "bf16") == 0
    assert "mixed_precision: no in A, bf16 in B" in capsys.readouterr().out


class TestAbsence:
    """What B lacks is no success, whatever is in it."""

    def test_cells_that_b_lacks_are_named_and_no_success(
        self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "b", {"aae": [10.0, 11.0, 12.0], "feature": [3.0]})
        assert compare(before, tmp_path / "b") == 1
        printed = capfd.readouterr()
        missing = "n_iter on digits 32 px, prior: the whole cell, seeds 0, 1, 2"
        assert f"missing: {missing}" in printed.out
        assert "only in B: feature on digits 32 px, prior: the whole cell, seed 0" in printed.out
        assert f"1 missing: {missing}" in printed.err
        assert compare(before, tmp_path / "b", "--allow-missing") == 0
        assert f"missing: {missing}" in capfd.readouterr().out
        assert compare(tmp_path / "b", before, "--allow-missing") == 0, "what only B has is nothing that is missing"

    def test_seeds_that_b_lacks(self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "b", {"aae": BEFORE["aae"], "n_iter": [8.0, 9.0]})
        write_run(tmp_path / "b", "late", {5: evaluation(10.0)}, state="running", variant="n_iter", seed=2)
        assert compare(before, tmp_path / "b", "--out", tmp_path / "out") == 1
        printed = capfd.readouterr().err
        assert "1 missing: n_iter on digits 32 px, prior: seed 2\n" in printed
        assert f"running: {tmp_path / 'b' / 'late'}" in printed, "why"
        assert read(tmp_path / "out").loc[("n_iter", "fid"), "n"] == 2, "what both have is compared all the same"

    @pytest.mark.parametrize("score", ["NaN", "Infinity", "1e308"])
    @pytest.mark.parametrize("side", ["A", "B"])
    def test_scores_that_are_not_finite(
        self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], score: str, side: str
    ) -> None:
        write_campaign(tmp_path / "again", BEFORE)
        damaged = before if side == "A" else tmp_path / "again"
        edit_evaluations(damaged / "aae-digits-32-seed1", '"eval/fid": 11.0', f'"eval/fid": {score}')
        assert compare(before, tmp_path / "again", "--out", tmp_path / "out") == 1
        assert f"1 missing: aae on digits 32 px, prior: fid of seed 1 is not finite in {side}" in capfd.readouterr().err
        row: Any = read(tmp_path / "out").loc[("aae", "fid")]
        assert (row["n"], row["mean_a"], row["mean_b"]) == (2, 11, 11)
        assert compare(before, tmp_path / "again", "--allow-missing") == 0

    def test_scores_that_were_not_measured(
        self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "again", BEFORE)
        edit_evaluations(tmp_path / "again" / "n_iter-digits-32-seed0", ', "eval/inception_score": 4.0', "")
        assert compare(before, tmp_path / "again") == 1
        assert (
            "n_iter on digits 32 px, prior: inception_score of seed 0 was not measured in B" in capfd.readouterr().err
        )
        assert compare(tmp_path / "again", before) == 0, "a measure that is new in B is nothing that is missing"

    def test_a_regression_and_what_is_missing_are_both_said(
        self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "worse", {"aae": [20.0, 22.0, 24.0]})
        assert compare(before, tmp_path / "worse") == 1
        printed = capfd.readouterr().err
        assert "1 regressions beyond 5%: aae on digits 32 px, prior: fid\n" in printed
        assert "1 missing: n_iter" in printed
        assert compare(before, tmp_path / "worse", "--allow-missing") == 1, "a regression stays one"

    def test_the_help_states_the_exit_status(self, capsys: pytest.CaptureFixture[str]) -> None:
        run("compare", "--help")
        assert "1 if it has one, or lacks cells, seeds or scores of A" in " ".join(capsys.readouterr().out.split())


class TestNames:
    """No name stands for two things."""

    def test_what_regressed_is_named_with_its_codes_options_and_budget(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for side, factor in (("a", 1), ("b", 2)):
            cells: list[tuple[int, dict[str, Any]]] = [(1, {}), (3, {}), (3, {"image_size": 64})]
            for n, place in [*cells, (3, {"architecture": "conv"})]:
                scores = evaluation(10.0 * factor * n) | {
                    "eval.reconstruction/fid": 5.0 * factor,
                    "eval.reconstruction/sampler": "reconstruction",
                }
                name = f"{n}-{len(place)}{place.get('image_size', 32)}"
                write_run(tmp_path / side, name, {10: scores}, variant="n_iter", options={"n": n}, **place)
        assert compare(tmp_path / "a", tmp_path / "b") == 1
        message = capfd.readouterr().err
        names = message.partition(": 8 regressions beyond 5%: ")[2].strip().split("; ")
        assert len(names) == len(set(names)) == 8
        assert "n_iter (n=1) on digits 32 px, reconstruction: fid" in names
        assert "n_iter (n=3) on digits 32 px (conv), prior: fid" in names

    def test_one_cell_of_several_is_called_as_it_is_among_them(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for side, factor in (("a", 1), ("b", 2)):
            for n in (1, 3):
                scores = {10: evaluation(10.0 * (factor if n == 3 else 1))}
                write_run(tmp_path / side, f"n{n}", scores, variant="n_iter", options={"n": n})
        assert compare(tmp_path / "a", tmp_path / "b") == 1
        assert "n_iter (n=3) on digits 32 px, prior: fid" in capfd.readouterr().err


class TestProcesses:
    def test_seeds_trained_on_another_number_of_processes_are_marked(
        self, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "worse", WORSE)
        trained_on(4, tmp_path / "worse" / "aae-digits-32-seed1")
        assert compare(before, tmp_path / "worse", "--out", tmp_path / "out") == 1
        printed = capsys.readouterr().out
        assert "│ 3 ‡ │" in printed
        text = "seed 1 on 1 in A and 4 in B"
        assert (
            f"‡: trained on another number of processes in B than in A. aae on digits 32 px, prior: {text}." in printed
        )
        table = read(tmp_path / "out")["other_processes"]
        assert table.loc[("aae", "fid")] == text
        assert table.isna().sum() == 5, "of the other cell"

    def test_collections_that_differ_in_it_as_wholes_say_so_once(
        self, before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "worse", WORSE)
        for folder in (tmp_path / "worse").iterdir():
            trained_on(2, folder)
        compare(before, tmp_path / "worse")
        printed = capsys.readouterr().out
        assert "num_processes: 1 in A, 2 in B" in printed
        assert "‡" not in printed


def test_collections_compare_like_their_runs(before: Path, tmp_path: Path) -> None:
    for name, fids in (("before", BEFORE), ("worse", WORSE)):
        write_campaign(tmp_path / name, fids)
        assert run("collect", tmp_path / name, "--out", tmp_path / f"{name}-tables") == 0
    assert compare(tmp_path / "before-tables", tmp_path / "worse-tables") == 1
    assert compare(tmp_path / "before-tables", tmp_path / "before") == 0


class TestBadInput:
    def test_other_protocols(self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "b", BEFORE, protocol_id="clean-1")
        assert compare(before, tmp_path / "b") == 2
        assert "scored as paper-1 in A and as clean-1 in B" in capfd.readouterr().err

    def test_nothing_in_common(self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "b", {"feature": [3.0]})
        assert compare(before, tmp_path / "b") == 2
        assert "share no cell" in capfd.readouterr().err

    def test_an_unknown_schema_version(self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "old").mkdir()
        (tmp_path / "old" / "collection.json").write_text(json.dumps({"schema_version": 99}))
        assert compare(before, tmp_path / "old") == 2
        assert "schema version 99, and this aaebench reads 2" in capfd.readouterr().err

    def test_no_finished_run(self, before: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "b" / "x").mkdir(parents=True)
        (tmp_path / "b" / "x" / "config.json").write_text("{")
        assert compare(before, tmp_path / "b") == 2
        assert "holds no finished run" in capfd.readouterr().err

    def test_a_strange_threshold(self, before: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert compare(before, before, "--threshold", -1) == 2
        assert "--threshold -1.0 is no fraction" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["posterior/reconstruction_l1", "mechanism/code_shift_1px"])
def test_what_is_measured_once_is_compared_once_whatever_the_codes(tmp_path: Path, name: str) -> None:
    for side in ("a", "b"):
        for seed in range(3):
            values = evaluation(10.0 + seed) | {"eval.gaussian/fid": 9.0 + seed, name: 0.2 + 0.01 * seed}
            write_run(tmp_path / side, f"{side}{seed}", {10: values}, seed=seed)
    assert compare(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert list(table.loc[table["measure"] == name.partition("/")[2], "sampler"]) == ["prior"]
    assert sorted(table.loc[table["measure"] == "fid", "sampler"]) == ["gaussian", "prior"]
