"""`aaebench compare`: beyond noise or not, and what a continuous integration may rely on."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from tests.results.runs import write_campaign

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
    assert "1 regressions beyond 5%: aae on digits 32 px: fid" in captured.err
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


def test_cells_that_only_one_has_are_named(before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_campaign(tmp_path / "b", {"aae": [10.0, 11.0, 12.0], "feature": [3.0]})
    assert compare(before, tmp_path / "b") == 0
    printed = capsys.readouterr().out
    assert "only in A: n_iter on digits" in printed
    assert "only in B: feature on digits" in printed


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
