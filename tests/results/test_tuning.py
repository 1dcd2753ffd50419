"""Searches: what the best of k trials is expected to be, the best trial of each variant, and fresh seeds for it."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.record import RunFolder
from results.compute.analysis import Analysis, analyse
from results.compute.summary import reported_rows
from results.compute.trials import take_out_draws
from results.compute.tuning import Tuning, compute_best, compute_weights, tune
from results.read.collect import collect
from results.show.budget_table import build_tuned_table
from results.show.figures.budgets import draw_budgets
from results.show.sentences import describe
from slurm.sweep import load_sweep
from tests.results.runs import edit_evaluations, evaluation, write_run

RATE = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
RATES = [1e-3, 3e-3, 2e-4, 5e-3]
# By variant the FID of each of the rates. The AAE is best at the second, n_iter at the last, the search's edge.
FIDS = {"aae": [9.0, 6.0, 20.0, 8.0], "n_iter": [12.0, 11.0, 22.0, 5.0], "kld_loss": [9.5, 10.0, 21.0, 15.0]}


def write_trial(root: Path, variant: str, fid: float, state: str = "done", seed: int = 0, **config: Any) -> RunFolder:
    """A run after ten epochs. A held-out sampling seed scores 0.5 more where `held_out` says no other number."""
    held_out = config.pop("held_out", fid + 0.5)
    scores = {0: evaluation(100.0)} if config.pop("evaluated", True) else {}
    if state == "done":
        scores[10] = evaluation(fid) | ({} if held_out is None else {"eval.prior-1/fid": held_out})
    config = {"search": RATE, "learning_rate": 1e-3} | config
    options = config.pop("options", {"sigma": "linear"})
    told = (variant, seed, config["learning_rate"], options["sigma"], "trial" if config["search"] else "plain")
    name = "-".join(map(str, told))
    return write_run(root, name, scores, state=state, variant=variant, seed=seed, options=options, **config)


def write_search(root: Path, fids: dict[str, list[float]] = FIDS, **config: Any) -> None:
    for variant, scores in fids.items():
        for rate, fid in zip(RATES, scores, strict=False):
            write_trial(root, variant, fid, learning_rate=rate, **config)


def write_fresh(root: Path, variant: str, fids: list[float], rate: float, **config: Any) -> None:
    for seed, fid in enumerate(fids, 1):
        write_trial(root, variant, fid, seed=seed, learning_rate=rate, search={}, held_out=None, **config)


def look(root: Path) -> Analysis:
    return analyse(collect(root))


def search(root: Path) -> Tuning:
    collection = collect(root)
    return tune(collection, reported_rows(collection.runs))


def tuned(root: Path) -> Any:
    """TUNED by variant."""
    return search(root).tuned.set_index("variant")


def run(*arguments: object) -> int:
    return call(lambda: app([*map(str, arguments)], result_action="return_value"))


class TestBestOfK:
    @pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 2), (4, 3), (5, 5)])
    def test_it_is_the_mean_over_all_searches_of_k_trials(self, n: int, k: int) -> None:
        """Counted: k trials drawn with replacement from the n that there are, of which the lowest is the best."""
        scores = np.random.default_rng(n).gamma(2.0, size=n)
        best = [min(scores[list(search)]) for search in itertools.product(range(n), repeat=k)]
        expected, low, high = compute_best(scores, scores, k)
        assert expected == pytest.approx(np.mean(best))
        assert low == pytest.approx(np.quantile(best, 0.05, method="inverted_cdf"))
        assert high == pytest.approx(np.quantile(best, 0.95, method="inverted_cdf"))

    def test_what_is_chosen_by_one_score_is_reported_by_another(self) -> None:
        chosen_by, reported = np.array([1.0, 2.0, 3.0]), np.array([5.0, 4.0, 9.0])
        best = [reported[min(search)] for search in itertools.product(range(3), repeat=2)]
        assert compute_best(chosen_by, reported, 2)[0] == pytest.approx(np.mean(best))

    def test_the_winners_own_score_promises_what_a_second_look_does_not_keep(self) -> None:
        """Trials that are all alike: the best of ten by its own noise is below the truth, by another's it is not."""
        noise = np.random.default_rng(0).normal(10, 1, (2, 400, 10))
        own = np.mean([compute_best(each, each, 10)[0] for each in noise[0]])
        other = np.mean([compute_best(a, b, 10)[0] for a, b in zip(*noise, strict=True)])
        assert own < 9
        assert other == pytest.approx(10, abs=0.15)

    def test_chances_add_up_to_one_and_one_trial_is_the_mean(self) -> None:
        assert compute_weights(7, 4).sum() == pytest.approx(1)
        assert compute_best(np.arange(7.0), np.arange(7.0), 1)[0] == pytest.approx(3)

    def test_more_trials_are_never_worse(self, tmp_path: Path) -> None:
        write_search(tmp_path)
        budgets = search(tmp_path).budgets
        for _, curve in budgets.groupby("variant"):
            assert list(curve["k"]) == [1, 2, 3, 4]
            assert (np.diff(curve["expected"]) < 0).all()
            assert (curve["low"] <= curve["high"]).all()


class TestDrawsAreTakenOut:
    def test_what_is_left_is_the_method(self) -> None:
        drawn = {name: {"choice": [1, 2]} for name in ("learning_rate", "options.sigma", "weight_decay")}
        rows = pd.DataFrame(
            {
                "learning_rate": [0.1, 0.2],
                "options": ['{"n": 3, "sigma": "exp"}', '{"n": 3, "sigma": "linear"}'],
                "training": ['{"optimizer": "adamw", "weight_decay": 0.3}', '{"optimizer": "adamw"}'],
                "search": json.dumps(drawn),
            }
        )
        found = take_out_draws(rows, json.dumps(drawn))
        assert found["learning_rate"].isna().all()
        assert set(found["options"]) == {'{"n": 3}'}
        assert set(found["training"]) == {'{"optimizer": "adamw"}'}
        assert [json.loads(draw) for draw in found["draw"]] == [
            {"learning_rate": 0.1, "options.sigma": "exp", "weight_decay": 0.3},
            {"learning_rate": 0.2, "options.sigma": "linear", "weight_decay": 0.0},
        ]


class TestTunedCells:
    def test_the_best_of_each_variant_and_where_the_search_ends_too_soon(self, tmp_path: Path) -> None:
        write_search(tmp_path)
        table = tuned(tmp_path)
        assert {name: json.loads(draw)["learning_rate"] for name, draw in table["draw"].items()} == {
            "aae": 3e-3,
            "n_iter": 5e-3,
            "kld_loss": 1e-3,
        }
        assert table["edge"].to_dict() == {"aae": "", "n_iter": "learning_rate", "kld_loss": ""}
        assert set(table["budget"]) == {4}
        assert table["learning_rate"].isna().all()

    def test_the_best_is_chosen_on_one_sampling_seed_and_reported_on_another(self, tmp_path: Path) -> None:
        write_search(tmp_path)
        row = tuned(tmp_path).loc["aae"]
        assert (row["chosen_on"], row["chosen_fid"]) == ("held-out sampling seeds", 6.5)
        assert (row["reported_on"], row["fid_mean"], row["n"]) == ("another sampling seed", 6.0, 1)

    def test_a_lucky_own_score_wins_nothing(self, tmp_path: Path) -> None:
        write_trial(tmp_path, "aae", 1.0, learning_rate=1e-3, held_out=9.0)
        write_trial(tmp_path, "aae", 6.0, learning_rate=3e-3, held_out=6.2)
        row = tuned(tmp_path).loc["aae"]
        assert json.loads(row["draw"]) == {"learning_rate": 3e-3}
        assert row["fid_mean"] == 6.0

    def test_without_a_second_reading_the_best_has_no_score_to_report(self, tmp_path: Path) -> None:
        write_search(tmp_path, held_out=None)
        row = tuned(tmp_path).loc["aae"]
        assert row["chosen_on"] == "the run's own sampling seed"
        assert pd.isna(row["reported_on"])
        assert pd.isna(row["fid_mean"])

    def test_fresh_seeds_are_reported_and_the_trial_is_none_of_them(self, tmp_path: Path) -> None:
        write_search(tmp_path)
        write_fresh(tmp_path, "aae", [6.8, 7.0, 7.2], 3e-3)
        write_fresh(tmp_path, "aae", [1.0], 1e-3)
        row = tuned(tmp_path).loc["aae"]
        assert (row["reported_on"], row["n"]) == ("fresh seeds", 3)
        assert row["fid_mean"] == pytest.approx(7.0)

    def test_a_trial_that_failed_is_one_and_no_better_than_the_worst(self, tmp_path: Path) -> None:
        write_search(tmp_path, {"aae": [9.0, 6.0]})
        write_trial(tmp_path, "aae", 0.0, state="failed", learning_rate=9e-3)
        found = search(tmp_path)
        (row,) = found.tuned.to_dict("records")
        assert (row["trials"], row["failed"]) == (3, 1)
        assert list(found.budgets.loc[found.budgets["k"] == 1, "expected"]) == pytest.approx([(9 + 6 + 9) / 3])

    def test_what_fails_wherever_it_is_bad_is_not_robust(self, tmp_path: Path) -> None:
        """One trial of n_iter finishes and three diverge: they are no better than the AAE's worst, which is 20."""
        write_search(tmp_path, {"aae": [9.0, 6.0, 20.0, 8.0], "n_iter": [7.0]})
        for rate in RATES[1:]:
            write_trial(tmp_path, "n_iter", 0.0, state="failed", learning_rate=rate)
        curves = search(tmp_path).budgets
        unstable = curves[curves["variant"] == "n_iter"].set_index("k")
        assert unstable.loc[1, "expected"] == pytest.approx((7 + 3 * 20) / 4)
        assert (unstable.loc[1, "low"], unstable.loc[1, "high"]) == (7, 20)
        assert curves.groupby("variant")["failed"].first().to_dict() == {"aae": 0, "n_iter": 3}

    @pytest.mark.parametrize(("state", "failed", "waiting", "budget"), [("failed", 1, 0, 4), ("running", 0, 1, 3)])
    def test_a_trial_that_nobody_has_evaluated_is_one(
        self, state: str, failed: int, waiting: int, budget: int, tmp_path: Path
    ) -> None:
        """It crashed, or runs, before its first evaluation: its draw is no less a trial of the AAE."""
        write_search(tmp_path, {"n_iter": FIDS["n_iter"], "aae": FIDS["aae"][:3]})
        write_trial(tmp_path, "aae", 0.0, state=state, learning_rate=RATES[3], evaluated=False)
        table = tuned(tmp_path)
        assert table.loc["aae", ["trials", "failed", "waiting"]].tolist() == [3 + failed, failed, waiting]
        assert set(table["budget"]) == {budget}

    def test_a_variant_that_always_crashes_at_the_start_is_named(self, tmp_path: Path) -> None:
        write_search(tmp_path, {"aae": FIDS["aae"]})
        for rate in RATES:
            write_trial(tmp_path, "feature", 0.0, state="failed", learning_rate=rate, evaluated=False)
        table = tuned(tmp_path)
        assert table["failed"].to_dict() == {"aae": 0, "feature": 4}
        assert pd.isna(table.loc["feature", "draw"])

    def test_a_trial_of_another_search_reads_nothing_here(self, tmp_path: Path) -> None:
        """Searches of one data set under two protocols: what crashed in one is no trial under the other's."""
        write_search(tmp_path, {"aae": FIDS["aae"]})
        other = {"learning_rate": {"log_uniform": [1e-5, 1e-2]}}
        scores = {10: evaluation(3.0, protocol_id="clean-1") | {"eval/protocol": "clean"}}
        write_run(tmp_path, "clean", scores, search=other)
        write_trial(tmp_path, "aae", 0.0, state="failed", learning_rate=9e-3, evaluated=False)
        found = search(tmp_path).tuned
        assert dict(zip(found["protocol"], found["failed"], strict=True)) == {"paper": 1, "clean": 0}

    def test_one_trial_without_a_second_reading_decides_how_all_are_chosen_and_that_is_said(
        self, tmp_path: Path
    ) -> None:
        write_search(tmp_path, {"aae": [9.0, 6.0, 20.0]})
        write_trial(tmp_path, "aae", 8.0, learning_rate=RATES[3], held_out=None)
        row = tuned(tmp_path).loc["aae"]
        assert row["chosen_on"] == "the run's own sampling seed"
        assert row["note"] == "1 of 4 finished runs of the search have no second sampling seed: none is chosen on"

    def test_a_trial_without_a_finite_score_decides_nothing_about_the_others(self, tmp_path: Path) -> None:
        write_search(tmp_path, {"aae": [9.0, 6.0, 20.0, 77.0]})
        edit_evaluations(tmp_path / "aae-0-0.005-linear-trial", '"eval/fid": 77.[05]', '"eval/fid": NaN')
        row = tuned(tmp_path).loc["aae"]
        assert (row["chosen_on"], row["note"], row["failed"]) == ("held-out sampling seeds", "", 1)

    def test_variants_are_given_equally_many_trials(self, tmp_path: Path) -> None:
        """The fourth trial of n_iter, its best, is still under way with the AAE."""
        write_search(tmp_path, {"n_iter": FIDS["n_iter"], "aae": FIDS["aae"][:3]})
        write_trial(tmp_path, "aae", 0.0, state="running", learning_rate=RATES[3])
        table = tuned(tmp_path)
        assert list(table["budget"]) == [3, 3]
        assert (table.loc["aae", "waiting"], table.loc["n_iter", "trials"]) == (1, 4)
        assert json.loads(table.loc["n_iter", "draw"])["learning_rate"] == 3e-3

    def test_curves_follow_from_the_trials_that_all_variants_have(self, tmp_path: Path) -> None:
        write_search(tmp_path, {"n_iter": FIDS["n_iter"], "aae": FIDS["aae"][:3]})
        curves = search(tmp_path).budgets
        assert set(curves["trials"]) == {3}
        last = curves[curves["k"] == 1].set_index("variant")["expected"]
        assert last.to_dict() == pytest.approx({"n_iter": (12 + 11 + 22) / 3, "aae": (9 + 6 + 20) / 3})

    def test_a_trial_of_several_seeds_counts_when_it_has_all_of_them(self, tmp_path: Path) -> None:
        for rate, fids in ((1e-3, [5.0, 9.0]), (3e-3, [6.0, 6.0]), (2e-4, [1.0])):
            for seed, fid in enumerate(fids):
                write_trial(tmp_path, "aae", fid, seed=seed, learning_rate=rate, held_out=None)
        row = tuned(tmp_path).loc["aae"]
        assert (row["seeds"], row["trials"], row["waiting"]) == (2, 2, 1)
        assert json.loads(row["draw"]) == {"learning_rate": 3e-3}

    def test_drawn_options_are_no_part_of_the_variant(self, tmp_path: Path) -> None:
        drawn = {"options.sigma": {"choice": ["linear", "exp"]}}
        for variant, fids in (("aae", (5.0, 4.0)), ("n_iter", (3.0, 6.0))):
            for sigma, fid in zip(("linear", "exp"), fids, strict=True):
                write_trial(tmp_path, variant, fid, options={"sigma": sigma}, search=drawn)
            best = {"aae": "exp", "n_iter": "linear"}[variant]
            write_fresh(tmp_path, variant, [min(fids), min(fids) + 0.1], 1e-3, options={"sigma": best})
        table = tuned(tmp_path)
        assert set(table["options"]) == {"{}"}
        assert table.loc["n_iter", "verdict"] == "better"


class TestComparedAtEqualBudgets:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """At the shared rate kld_loss is worse than the AAE, at the best of each it is better."""
        for variant, plain, best in (
            ("aae", [8.0, 8.2, 8.1], [4.6, 4.7, 4.5]),
            ("kld_loss", [12.0, 12.2, 12.1], [3.0, 3.1, 3.05]),
            ("n_iter", [8.1, 8.0, 8.3], [4.7, 4.6, 4.5]),
        ):
            place = {"dataset": "cifar10", "batch_size": 128}
            for rate, fid in zip(RATES, FIDS[variant], strict=True):
                write_trial(tmp_path, variant, fid, learning_rate=rate, **place)
            rate = RATES[int(np.argmin(FIDS[variant]))]
            write_fresh(tmp_path, variant, best, rate, **place)
            write_fresh(tmp_path, variant, plain, 1e-4, **place)
        return tmp_path

    def test_claims_are_judged_twice(self, root: Path) -> None:
        claims = look(root).frames["claims"]
        verdicts = claims[claims["claim"] == "C3"].set_index("settings")["verdict"]
        assert verdicts.to_dict() == {"shared": "refuted", "tuned": "supported"}

    def test_batchnorm_is_judged_on_each_variants_best_trial(self, tmp_path: Path) -> None:
        """M4, which compares tuned with tuned: fresh seeds of a search's best decide it as well."""
        for variant, fids, best in (
            ("aae", [6.0, 9.0], [6.0, 6.1, 6.2]),
            ("equal_linear", [9.0, 4.0], [4.1, 4.0, 4.2]),
        ):
            write_search(tmp_path, {variant: fids})
            write_fresh(tmp_path, variant, best, RATES[int(np.argmin(fids))])
        claims = look(tmp_path).frames["claims"]
        row = claims[(claims["claim"] == "M4") & (claims["settings"] == "tuned")].iloc[0]
        assert row["verdict"] == "supported"
        assert "at learning rates of its best trial" in str(row["evidence"])

    def test_each_variant_is_compared_with_the_tuned_aae(self, root: Path) -> None:
        table = tuned(root)
        assert table.loc["kld_loss", "verdict"] == "better"
        assert table.loc["kld_loss", "ratio"] == pytest.approx(3.05 / 4.6, rel=0.01)
        assert table.loc["n_iter", "verdict"] in ("equivalent", "undecided")
        assert pd.isna(table.loc["aae", "verdict"])

    @pytest.mark.parametrize("evaluated", [True, False])
    def test_seeds_that_failed_decide_nothing_in_their_variants_favour(self, evaluated: bool, root: Path) -> None:
        place = {"dataset": "cifar10", "batch_size": 128, "search": {}, "evaluated": evaluated}
        for seed in (4, 5):
            write_trial(root, "kld_loss", 0.0, state="failed", learning_rate=1e-3, seed=seed, **place)
        row = tuned(root).loc["kld_loss"]
        assert (row["n"], row["fresh_failed"], row["verdict"]) == (3, 2, "undecided")
        assert row["note"] == "better but for 2 of its fresh seeds, which failed"
        assert tuned(root).loc["n_iter", "note"] == ""

    def test_seeds_of_the_aae_that_failed_make_no_other_worse(self, tmp_path: Path) -> None:
        for variant, best in (("aae", [4.6, 4.7, 4.5]), ("n_iter", [9.1, 9.0, 9.2]), ("kld_loss", [3.0, 3.1, 3.05])):
            write_search(tmp_path, {variant: [9.0, 6.0]})
            write_fresh(tmp_path, variant, best, 3e-3)
        assert tuned(tmp_path)["verdict"].fillna("").to_dict() == {"aae": "", "n_iter": "worse", "kld_loss": "better"}
        lost = write_trial(tmp_path, "aae", 77.0, learning_rate=3e-3, seed=9, search={}, held_out=None)
        edit_evaluations(lost.path, '"eval/fid": 77.0', '"eval/fid": NaN')
        table = tuned(tmp_path)
        assert table["fresh_failed"].to_dict() == {"aae": 1, "n_iter": 0, "kld_loss": 0}
        assert (table.loc["aae", "n"], table.loc["kld_loss", "verdict"]) == (3, "better")
        assert (table.loc["n_iter", "verdict"], table.loc["n_iter", "note"]) == (
            "undecided",
            "worse but for 1 of the AAE's fresh seeds, which failed",
        )

    def test_trials_are_no_seeds_of_the_papers_tables(self, root: Path) -> None:
        analysis = look(root)
        summary = analysis.summary
        plain = summary[(summary["variant"] == "aae") & (summary["search"] == "{}")]
        assert sorted(zip(plain["learning_rate"], plain["n"], strict=True)) == [(1e-4, 3), (3e-3, 3)]
        assert {n for table in analysis.tables for n in table.rows["n"].dropna()} == {3}
        assert (analysis.comparisons["search"] == "{}").all()

    def test_the_report_shows_it(self, root: Path, tmp_path: Path) -> None:
        assert run("report", root, "--out", tmp_path / "report") == 0
        page = (tmp_path / "report" / "report.html").read_text()
        assert "Equal budgets" in page
        assert "best of 4" in page
        assert page.count("KLD-loss helps on CIFAR-10") == 2
        assert (tmp_path / "report/figures/budgets-cifar10-32px-batch_size-128.png").is_file()
        assert len(pd.read_csv(tmp_path / "report/tuned.csv")) == 3

    def test_the_report_counts_seeds_that_failed_and_says_what_they_leave_open(self, root: Path) -> None:
        write_trial(
            root, "kld_loss", 0.0, "failed", 4, learning_rate=1e-3, dataset="cifar10", batch_size=128, search={}
        )
        analysis = look(root)
        shown = build_tuned_table(analysis.frames["tuned"])
        assert shown is not None
        place = [column["name"] for column in shown.columns].index("fresh failed")
        assert {row.variant for row in shown.rows if row.cells[place].text == "1"} == {"kld_loss"}
        assert [note for note in shown.notes if "better but for 1 of its fresh seeds" in note]
        assert any("kld_loss 3.05 (fresh seeds that failed: 1)" in sentence for sentence in describe(analysis))

    def test_a_curve_is_dashed_where_it_says_little_of_another_search(self, root: Path) -> None:
        write_trial(root, "aae", 0.0, "failed", learning_rate=9e-3, dataset="cifar10", batch_size=128)
        for variant in ("kld_loss", "n_iter"):
            write_trial(root, variant, 9.0, learning_rate=9e-3, dataset="cifar10", batch_size=128)
        (drawing,) = draw_budgets(search(root).budgets)
        lines = drawing.figure.axes[0].lines
        assert {line.get_linestyle(): list(np.asarray(line.get_xdata())) for line in lines} == {
            "--": [1, 2, 3, 4, 5],
            "-": [1, 2],
        }
        labels = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
        assert labels == ["aae, 1 of 5 failed", "n_iter", "kld_loss"]
        assert "not intervals for a new search" in drawing.caption


class TestCommand:
    def asked(self, out: Path) -> set[tuple[Any, ...]]:
        content = yaml.safe_load(out.read_text())
        runs = [content["fixed"] | each for each in content["grid"]["run"]]
        return {(each["variant"], each["learning_rate"], each["seed"]) for each in runs}

    def test_the_best_of_each_gets_seeds_that_no_search_has_seen(self, tmp_path: Path) -> None:
        write_search(tmp_path / "runs")
        assert run("tune", tmp_path / "runs", "--seeds", 3, "--out", tmp_path / "again.yaml") == 0
        best = {"aae": 3e-3, "n_iter": 5e-3, "kld_loss": 1e-3}
        assert self.asked(tmp_path / "again.yaml") == {
            (variant, rate, seed) for variant, rate in best.items() for seed in (1, 2, 3)
        }

    def test_a_second_call_asks_for_what_is_missing(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_search(tmp_path / "runs", {"aae": FIDS["aae"]})
        write_fresh(tmp_path / "runs", "aae", [6.0, 6.1], 3e-3)
        assert run("tune", tmp_path / "runs", "--seeds", 3, "--out", tmp_path / "again.yaml") == 0
        assert self.asked(tmp_path / "again.yaml") == {("aae", 3e-3, 3)}
        assert run("tune", tmp_path / "runs", "--seeds", 2, "--out", tmp_path / "none.yaml") == 0
        assert not (tmp_path / "none.yaml").exists()
        assert "nothing to add" in capfd.readouterr().err

    def test_the_file_is_a_sweep_whose_runs_are_the_trials_but_for_seed_and_search(self, tmp_path: Path) -> None:
        for rate, fid in zip(RATES, FIDS["aae"], strict=True):
            config = build_config({"variant": "aae", "learning_rate": rate, "epochs": 10, "search": RATE})
            asked = config.model_dump(mode="json")
            write_trial(tmp_path / "runs", asked.pop("variant"), fid, **asked)
        assert run("tune", tmp_path / "runs", "--seeds", 2, "--out", tmp_path / "again.yaml") == 0
        for config in load_sweep(tmp_path / "again.yaml").configs:
            again = build_config({"variant": "aae", "learning_rate": 3e-3, "epochs": 10, "seed": config.seed})
            assert config.run_id == again.run_id
            assert (config.search, config.sweep) == ({}, "again")

    @pytest.mark.parametrize(
        ("write", "message"),
        [
            (lambda root: write_fresh(root, "aae", [3.0, 4.0], 1e-4), "holds no finished trial of a search"),
            (lambda root: write_search(root, {"aae": [9.0]}), "aae on digits 32 px: 1 of its trials are over"),
            (lambda root: write_search(root, {"aae": [9.0], "n_iter": [8.0]}), "no choice: ask for trials: 2 or more"),
            (
                lambda root: [
                    write_trial(root, "aae", 9.0),
                    write_trial(root, "aae", 0.0, "running", learning_rate=2e-3),
                ],
                "is no choice: finish the search first",
            ),
            (
                lambda root: [
                    write_search(root, {"aae": [9.0, 8.0]}),
                    *(write_trial(root, "n_iter", 0.0, "failed", learning_rate=rate) for rate in RATES[:2]),
                ],
                "(2 failed, 0 not over); the best of fewer than 2 is no choice: all of these failed",
            ),
            (
                lambda root: write_search(root, {"aae": [9.0, 8.0], "n_iter": [7.0]}),
                "2 of its trials are over (0 failed, 0 not over), and 1 that all variants of the search have",
            ),
        ],
    )
    def test_a_choice_among_fewer_than_two_is_refused(
        self, write: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path / "runs")
        assert run("tune", tmp_path / "runs", "--out", tmp_path / "again.yaml") == 2
        assert message in " ".join(capfd.readouterr().err.split())
        assert not (tmp_path / "again.yaml").exists()

    def test_one_seed_is_refused(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert run("tune", tmp_path, "--seeds", 1) == 2
        assert "a verdict takes two seeds at least" in capfd.readouterr().err


def test_trials_are_no_doses_and_no_claim_is_judged_by_them_at_shared_settings(tmp_path: Path) -> None:
    """Three seeds of four drawn rates would be a dose of the learning rate, and enough for M4 and C1."""
    for seed in range(3):
        fids = {"aae": [9.0, 6.0, 20.0, 8.0], "equal_linear": [8.0, 3.0, 30.0, 7.0]}
        write_search(tmp_path, {name: [fid + 0.1 * seed for fid in each] for name, each in fids.items()}, seed=seed)
    frames = look(tmp_path).frames
    assert len(frames["tuned"]) == 2
    assert frames["dose"].empty
    claims = frames["claims"]
    assert set(claims.loc[claims["settings"] == "shared", "verdict"]) == {"not enough data"}
