"""Every run folder ends up in a table: as rows, or as a problem with its reason."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

from aaebench import app
from harness.commands import call
from harness.record import RunFolder
from results.commands import print_summary
from results.compute.analysis import FILES
from results.compute.collapse import build_collapse_table
from results.compute.summary import summarise
from results.read.collect import collect
from results.read.schema import COLUMNS
from tests.results.runs import CONFIG, evaluation, score_again, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, (first, last) in enumerate([(100.0, 10.0), (90.0, 14.0)]):
        evaluations = {
            0: evaluation(first, 0.6),
            5: evaluation(20, 0.2, "variance"),
            10: evaluation(last, 0.1, "variance"),
        }
        write_run(tmp_path, f"aae-{seed}", evaluations, seed=seed)
        evaluations = {0: evaluation(first), 10: evaluation(last / 2)}
        write_run(tmp_path, f"n_iter-{seed}", evaluations, seed=seed, variant="n_iter", options={"n": 3})
    return tmp_path


def test_runs_have_a_row_per_evaluation_and_the_papers_order(root: Path) -> None:
    runs: Any = collect(root).runs
    assert list(runs.columns) == COLUMNS
    assert len(runs) == 2 * 3 + 2 * 2
    assert list(runs["variant"].unique()) == ["aae", "n_iter"]
    last: Any = runs[runs["run_id"] == "aae-1"].iloc[-1]
    assert (last["epoch"], last["images_seen"], last["fid"], last["sigma_mean"]) == (10, 1000, 14.0, 0.1)
    assert (last["interruptions"], last["git_commit"], last["state"]) == (2, "abc", "done")
    assert json.loads(last["options"]) == {"sigma": "linear"}


def test_the_summary_is_mean_std_and_n_over_seeds_at_the_last_epoch(root: Path) -> None:
    summary: Any = summarise(collect(root).runs).set_index("variant")
    assert summary.loc["aae", "n"] == 2
    assert summary.loc["aae", "fid_mean"] == pytest.approx(12)
    assert summary.loc["aae", "fid_std"] == pytest.approx(8**0.5)
    assert summary.loc["aae", "collapse"] == "variance 2"
    assert summary.loc["n_iter", "fid_mean"] == pytest.approx(6)


def test_one_seed_has_no_std(tmp_path: Path) -> None:
    write_run(tmp_path, "only", {10: evaluation(5)})
    summary: Any = summarise(collect(tmp_path).runs)
    assert summary.loc[0, "n"] == 1
    assert pd.isna(summary.loc[0, "fid_std"])


def test_protocols_and_options_are_never_mixed(root: Path) -> None:
    write_run(root, "aae-other", {10: evaluation(1, protocol_id="clean-1")}, seed=2)
    write_run(root, "aae-exp", {10: evaluation(1)}, seed=3, options={"sigma": "exp"})
    summary: Any = summarise(collect(root).runs)
    aae: Any = summary[summary["variant"] == "aae"]
    assert sorted(aae["n"]) == [1, 1, 2]


def test_collapse_shows_when_it_set_in(root: Path) -> None:
    write_run(root, "back", {0: evaluation(3, collapse="variance"), 10: evaluation(3)}, seed=7)
    table: Any = build_collapse_table(collect(root).runs).set_index("run_id")
    assert table.loc["aae-0", "collapse_epoch"].tolist() == [5, 5, 5]
    assert table.loc["n_iter-0", "collapse_epoch"].isna().all()
    assert table.loc["back", "collapse_epoch"].isna().all()
    assert table.loc["aae-0", "sigma_mean_smallest_dim"].tolist() == pytest.approx([0.3, 0.1, 0.05])
    assert table.loc["aae-0", "sigma_mean_largest_dim"].tolist() == pytest.approx([1.2, 0.4, 0.2])


class TestProblems:
    def problems(self, root: Path) -> dict[str, Any]:
        table: Any = collect(root).problems
        return {row["run_id"]: (row["state"], row["reason"]) for _, row in table.iterrows()}

    def test_finished_runs_have_none(self, root: Path) -> None:
        assert self.problems(root) == {}

    def test_unfinished_and_failed_runs_are_listed_and_their_rows_kept(self, root: Path) -> None:
        write_run(root, "half", {0: evaluation(9)}, state="running", status={"epoch": 3, "epochs": 10})
        reason = "DivergedError: loss/adversary is nan"
        write_run(root, "bad", {0: evaluation(9)}, state="failed", status={"epoch": 1, "epochs": 10, "reason": reason})
        RunFolder(root / "new").ask_for(CONFIG)
        assert self.problems(root) == {
            "half": ("running", "at epoch 3 of 10"),
            "bad": ("failed", f"{reason} (at epoch 1 of 10)"),
            "new": ("queued", "not started"),
        }
        runs: Any = collect(root).runs
        assert set(runs.loc[runs["run_id"] == "half", "state"]) == {"running"}
        assert len(summarise(runs)) == 2, "unfinished runs are in no average"

    @pytest.mark.parametrize(
        ("file", "content", "reason"),
        [
            ("config.json", "{", "config.json"),
            ("config.json", None, "config.json"),
            ("config.json", "{}", "missing 'variant'"),
            ("config.json", json.dumps(CONFIG | {"variant": ["x"]}), "variant"),
            ("status.json", '{"state": "half"}', "status.json has the state 'half'"),
            ("evaluations/paper-1/records.jsonl", "", "it is done and has no evaluation"),
            ("records.jsonl", '[]\n{"epoch": 1}\n', "records.jsonl, line 1"),
            (
                "evaluations/paper-1/records.jsonl",
                '{"epoch": 1, "images_seen": 1, "sampler": "prior", "eval/fid": "x"}\n',
                "fid is 'x' in epoch 1",
            ),
            ("status.json", "[]", "status.json holds no JSON object"),
            ("records.jsonl", 'x\n{"epoch": 1}\n', "records.jsonl, line 1"),
            ("records.jsonl", '{"no": "epoch"}\n{}\n', "it is no record with epoch and images_seen"),
            ("environment.json", "?", "environment.json"),
        ],
    )
    def test_a_damaged_folder_is_named_and_stops_nothing(
        self, root: Path, file: str, content: str | None, reason: str
    ) -> None:
        folder = write_run(root, "broken", {10: evaluation(1)})
        (folder.path / file).unlink()
        if content is not None:
            (folder.path / file).write_text(content)
        problems = self.problems(root)
        assert list(problems) == ["broken"]
        assert problems["broken"][0] == "damaged"
        assert reason in problems["broken"][1]
        assert len(collect(root).runs) == 10

    def test_the_same_run_twice_counts_once(self, root: Path) -> None:
        write_run(root / "copy", "aae-0", {10: evaluation(1)})
        problems = self.problems(root)
        assert "another folder of this run was read" in problems["aae-0"][1]
        assert len(collect(root).runs) == 10

    def test_a_copy_under_another_name_counts_not_at_all(self, root: Path) -> None:
        shutil.copytree(root / "aae-0", root / "aae-0.bak")
        assert "a copy of the run aae-0" in self.problems(root)["aae-0.bak"][1]
        assert summarise(collect(root).runs)["n"].tolist() == [2, 2]


def test_samplers_are_rows_of_their_own(tmp_path: Path) -> None:
    other = {key.replace("eval/", "eval.gaussian/"): value for key, value in evaluation(3).items() if "eval/" in key}
    other["eval.gaussian/sampler"] = "gaussian"
    write_run(tmp_path, "both", {10: evaluation(5) | other})
    collection = collect(tmp_path)
    assert dict(zip(collection.runs["sampler"], collection.runs["fid"], strict=True)) == {"prior": 5, "gaussian": 3}
    assert set(collection.runs["sigma_mean"]) == {0.5}
    assert len(summarise(collection.runs)) == 2
    assert len(build_collapse_table(collection.runs)) == 1


def test_a_variant_without_posterior_is_in_the_tables_all_the_same(tmp_path: Path) -> None:
    scores = {key: value for key, value in evaluation(5).items() if key.startswith("eval/")}
    write_run(tmp_path, "gan", {10: scores | {"posterior/collapse": "no posterior"}}, variant="gan", options={})
    collection = collect(tmp_path)
    assert collection.problems.empty
    assert collection.runs["collapse"].tolist() == ["no posterior"]
    assert summarise(collection.runs)["fid_mean"].tolist() == [5]
    assert build_collapse_table(collection.runs).empty


def test_a_run_that_nobody_has_evaluated_is_no_row_and_is_known_with_its_state(tmp_path: Path) -> None:
    write_run(tmp_path, "scored", {10: evaluation(3.0)})
    write_run(tmp_path, "crashed", {}, state="failed", seed=1)
    write_run(tmp_path, "waits", {}, seed=2, eval_when="separately")
    RunFolder(tmp_path / "queued").ask_for(CONFIG | {"seed": 3})
    for collection in (collect(tmp_path), collect(tmp_path)):  # as they are read, and as the index has kept them
        assert set(collection.runs["run_id"]) == {"scored"}
        states = dict(zip(collection.unscored["run_id"], collection.unscored["state"], strict=True))
        assert states == {"crashed": "failed", "waits": "running", "queued": "queued"}
        assert list(collection.select({"queued"}).unscored["seed"]) == [3]


def test_one_training_counts_once_however_often_it_is_there(tmp_path: Path) -> None:
    """n is the number of different seeds: of another evaluation, a copy and a second training of a seed, one counts."""
    write_run(tmp_path / "first", "a", {10: evaluation(5)})
    write_run(tmp_path / "second", "a", {10: evaluation(5)})
    write_run(tmp_path, "trained-again", {10: evaluation(9)}, eval_every=2)
    write_run(tmp_path, "other-seed", {10: evaluation(7)}, seed=1)
    collection = collect(tmp_path)
    assert summarise(collection.runs)["n"].tolist() == [2]
    reasons = dict(zip(collection.problems["run_id"], collection.problems["reason"], strict=True))
    assert reasons["a"].startswith("another folder of this run was read")
    assert reasons["trained-again"] == "another run of the same cell and seed was read: a"


def test_two_networks_of_features_are_two_cells(tmp_path: Path) -> None:
    for number, digest in enumerate(("aa", "bb")):
        write_run(tmp_path, digest, {10: evaluation(5 + number)}, variant="dfc_vae", feature_sha256=digest)
    assert summarise(collect(tmp_path).runs)["n"].tolist() == [1, 1]


def test_the_noise_of_sampling_stands_beside_the_spread_over_seeds(tmp_path: Path) -> None:
    for seed, fid in enumerate((10.0, 12.0, 14.0)):
        repeated = {f"eval.prior-{k}/fid": fid + k / 10 for k in (1, 2)}
        write_run(tmp_path, f"run{seed}", {10: evaluation(fid) | repeated}, seed=seed)
    (row,) = summarise(collect(tmp_path).runs).to_dict(orient="records")
    assert row["n"] == 3
    assert row["fid_std"] == pytest.approx(2)
    assert row["fid_sampling_std"] == pytest.approx(0.1)
    assert 1.9 < row["fid_training_std"] < 2


def test_a_longer_run_serves_the_smaller_budgets_of_its_setting(tmp_path: Path) -> None:
    write_run(tmp_path, "short", {5: evaluation(20), 10: evaluation(15)}, seed=0)
    longer = {5: evaluation(21), 10: evaluation(16), 20: evaluation(9)}
    write_run(tmp_path, "long", longer, seed=1, epochs=20, status={"epoch": 20, "epochs": 20})
    write_run(tmp_path, "unmeasured", {5: evaluation(1), 20: evaluation(11)}, seed=2, epochs=20)
    summary = summarise(collect(tmp_path).runs)
    found = set(zip(summary["epochs"], summary["n"], summary["fid_mean"], strict=True))
    assert found == {(10, 2, 15.5), (20, 2, 10.0)}


def test_provenance_says_how_a_run_was_split_and_its_steps_ran_where_it_is_recorded(root: Path) -> None:
    environment = {"zero_stage": 2, "step": "compiled"}
    for name, recorded in (("aae-0", environment), ("aae-1", {"zero_stage": None, "step": "eager"})):
        RunFolder(root / name).write_environment({"run_id": name, **recorded})
    assert call(lambda: app(["collect", str(root), "--out", str(root / "out")], result_action="return_value")) == 0
    table = parquet.read_table(root / "out" / "provenance.parquet", columns=["run_id", "zero_stage", "step"])
    assert {row.pop("run_id"): tuple(row.values()) for row in table.to_pylist()} == {
        "aae-0": (2, "compiled"),
        "aae-1": (None, "eager"),
        "n_iter-0": (None, None),
        "n_iter-1": (None, None),
    }


class TestCommand:
    def collect(self, *arguments: str) -> int:
        return call(lambda: app(["collect", *arguments], result_action="return_value"))

    def test_writes_the_tables(self, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_run(root, "half", {0: evaluation(9)}, state="queued", status={"epoch": 3, "epochs": 10})
        out = tmp_path / "tables"
        assert self.collect(str(root), "--out", str(out)) == 0
        captured = capfd.readouterr()
        assert captured.out.splitlines()[-1] == str(out)
        assert "queued:" in captured.err
        assert "half" in captured.err
        tables = {file.stem: pd.read_csv(file) for file in out.glob("*.csv")}
        assert set(tables) == set(FILES)
        assert list(tables["runs"].columns) == COLUMNS
        assert list(tables["summary"]["n"]) == [2, 2]
        assert self.collect(str(root), "--out", str(out)) == 0, "collecting again replaces them"

    def test_nothing_but_problems_still_makes_tables(self, tmp_path: Path) -> None:
        RunFolder(tmp_path / "runs" / "new").ask_for(CONFIG)
        assert self.collect(str(tmp_path / "runs"), "--out", str(tmp_path / "out")) == 0
        assert len(pd.read_csv(tmp_path / "out" / "problems.csv")) == 1

    def test_bad_input(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert self.collect(str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")) == 2
        assert "there is no folder" in capfd.readouterr().err
        (tmp_path / "empty").mkdir()
        assert self.collect(str(tmp_path / "empty"), "--out", str(tmp_path / "out")) == 2
        assert "holds no run folders" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_an_unwritable_out(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (root / "file").write_text("in the way")
        assert self.collect(str(root), "--out", str(root / "file")) == 2
        assert "choose another folder with --out" in capfd.readouterr().err


def test_the_printed_summary_has_a_table_per_protocol(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score_again(RunFolder(root / "aae-0"), "clean", "clean-1")
    print_summary(summarise(collect(root).runs))
    printed = capsys.readouterr().out
    assert printed.count("protocol clean-1") == printed.count("protocol paper-1") == 1
    assert "12.00 ± 2.83" in printed


def test_the_published_numbers_are_shipped() -> None:
    published: Any = pd.read_csv(Path(__file__).parent.parent.parent / "results" / "published" / "tables.csv")
    assert len(published) == 36
    fashion: Any = published[(published["dataset"] == "fashion_mnist") & (published["variant"] == "n_iter")]
    assert fashion["fid"].item() == 117.331
