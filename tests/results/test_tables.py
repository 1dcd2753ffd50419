"""Tables, comparisons with the baseline and marks: what may be called best, and what stands beside it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.errors import InputError
from harness.record import find_run_folders
from results.commands import print_gap, print_summary
from results.compute.analysis import Analysis, analyse
from results.compute.baseline import build_best, build_comparisons, mark_best
from results.compute.summary import reported_rows, summarise
from results.read.collect import collect
from results.read.protocols import choose_protocol, describe_choice
from results.show.render import render_latex, render_markdown
from results.show.report_tables import build_comparison_table, build_paper_table, build_run_tables
from results.show.sentences import describe
from tests.results.runs import edit_evaluations, evaluation, score_again, trained_on, write_campaign, write_run

CLEAR = {"aae": [30.0, 31.0, 29.0], "n_iter": [20.2, 21.0, 19.1], "kld_loss": [29.8, 31.3, 28.9]}


def analysis_of(root: Path) -> Analysis:
    return analyse(collect(root))


def fid_comparison(analysis: Analysis, variant: str) -> Any:
    table = analysis.comparisons
    return table[(table["variant"] == variant) & (table["measure"] == "fid")].iloc[0]


def test_a_clear_difference_is_found_and_noise_is_not(tmp_path: Path) -> None:
    write_campaign(tmp_path, CLEAR)
    analysis = analysis_of(tmp_path)
    better, noise = fid_comparison(analysis, "n_iter"), fid_comparison(analysis, "kld_loss")
    assert better["verdict"] == "better"
    assert better["difference"] == pytest.approx((-9.8 - 10 - 9.9) / 3)
    assert better["difference_low"] < better["difference"] < better["difference_high"] < 0
    assert better["more_seeds"] == 0
    assert noise["verdict"] == "equivalent", "within 10 % of the AAE, and three seeds are enough to know"
    assert noise["difference_low"] < 0 < noise["difference_high"]
    assert noise["more_seeds"] == 0
    assert better["family"] == noise["family"] == 2


def test_pairing_finds_what_the_spread_over_seeds_hides(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0, 30.0, 50.0, 20.0], "n_iter": [9.0, 27.2, 44.8, 18.1]})
    row = fid_comparison(analysis_of(tmp_path), "n_iter")
    assert row["verdict"] == "better", "every seed is better by a tenth, while seeds differ fivefold"
    assert row["test"].startswith("paired")
    assert row["correlation"] > 0.99


def test_seeds_that_do_not_go_together_are_no_pairs(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [30.0, 31.0, 29.0, 30.4], "n_iter": [26.2, 25.1, 25.9, 24.8]})
    row = fid_comparison(analysis_of(tmp_path), "n_iter")
    assert row["test"] == "welch"
    assert row["verdict"] == "better"


def test_all_seeds_are_compared_where_they_are_no_pairs(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0, 11.0], "n_iter": [9.0, 9.3, 9.5]})
    row = fid_comparison(analysis_of(tmp_path), "n_iter")
    assert (row["n"], row["n_baseline"]) == (3, 2)


def test_only_the_seeds_that_both_finished_are_paired(tmp_path: Path) -> None:
    aae = [10.0, 30.0, 50.0, 20.0]
    campaign = {"aae": aae, "n_iter": [9.0, 27.2, 44.8, 18.1, 33.0], "feature": [12.1, 36.2, 59.8, 24.1]}
    write_campaign(tmp_path, campaign)
    row = fid_comparison(analysis_of(tmp_path), "n_iter")
    assert row["test"].startswith("paired")
    assert (row["n"], row["n_baseline"]) == (4, 4)


def test_a_single_seed_gets_no_statistics(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0], "n_iter": [1.0]})
    analysis = analysis_of(tmp_path)
    row = fid_comparison(analysis, "n_iter")
    assert row["verdict"] == "n = 1"
    assert math.isnan(row["p"])
    assert set(analysis.tables[0].rows["fid_mark"]) == {""}
    assert "n = 1: a single seed" in render_markdown(analysis.tables[0])
    assert any("single seed (n = 1)" in sentence for sentence in describe(analysis))


def test_the_published_aae_is_the_baseline_among_several(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0, 11.0]}, options={"sigma": "linear", "sigma_floor": 0.0})
    write_campaign(tmp_path, {"aae": [5.0, 5.5]}, prefix="exp-", options={"sigma": "exp", "sigma_floor": 0.0})
    table = analysis_of(tmp_path).comparisons
    assert set(table["baseline_options"]) == {json.dumps({"sigma": "linear", "sigma_floor": 0.0}, sort_keys=True)}
    assert table["options"].str.contains("exp").all()


def test_best_is_bold_only_if_nothing_else_could_be_best(tmp_path: Path) -> None:
    write_campaign(tmp_path, CLEAR)
    markdown = render_markdown(analysis_of(tmp_path).tables[0])
    assert "| n-iter-IAAE | 3 | **20.10 ± 0.95** |" in markdown
    assert "| KLD-loss-IAAE | 3 | 30.00 ± 1.21 |" in markdown
    assert "<u>30.00 ± 1.00</u>" in markdown, "the baseline is underlined"


def test_the_indistinguishable_best_ones_are_marked_as_a_group(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [30.0, 31.0, 29.0], "n_iter": [29.9, 31.2, 28.8], "feature": [90.0, 91.1, 88.8]})
    rows = analysis_of(tmp_path).tables[0].rows.set_index("variant")["fid_mark"]
    assert rows.to_dict() == {"aae": "among the best", "n_iter": "among the best", "feature": ""}


def test_higher_is_better_for_the_inception_score(tmp_path: Path) -> None:
    for variant, scores in {"aae": (2.0, 2.1, 2.05), "n_iter": (5.0, 5.1, 5.06)}.items():
        for seed, score in enumerate(scores):
            content = evaluation(10) | {"eval/inception_score": score}
            write_run(tmp_path, f"{variant}{seed}", {10: content}, variant=variant, seed=seed)
    runs = collect(tmp_path).runs
    summary = summarise(runs)
    marks = mark_best(build_best(reported_rows(runs)), summary, "inception_score")
    assert dict(zip(summary["variant"], marks, strict=True)) == {"aae": "", "n_iter": "best"}


@pytest.mark.parametrize("score", ["NaN", "Infinity", "1e308", "-1e308"])
def test_a_score_that_is_no_number_stays_visible_and_is_averaged_away_nowhere(tmp_path: Path, score: str) -> None:
    """Nor is one beyond 1e30, of whose square nothing is left."""
    write_campaign(tmp_path, {"aae": [10.0, 11.0, 12.0], "n_iter": [1.0, 2.0]})
    folder = write_run(tmp_path, "nan", {10: evaluation(0.0)}, variant="n_iter", seed=2)
    edit_evaluations(folder.path, '"eval/fid": 0.0', f'"eval/fid": {score}')
    analysis = analysis_of(tmp_path)
    row: Any = analysis.summary.set_index("variant").loc["n_iter"]
    assert math.isnan(row["fid_mean"])
    assert row["not_finite"] == "fid 1"
    assert "not finite in 1 of 3" in render_markdown(analysis.tables[0])
    assert set(analysis.collection.runs["not_finite"].dropna()) == {"fid"}
    comparison = fid_comparison(analysis, "n_iter")
    assert comparison["n"] == 2
    assert comparison["mean"] == 1.5
    assert comparison["scale"] == "log", "one that is no number changes nothing of how the others are judged"
    assert np.isfinite(comparison[["p", "difference_low", "difference_high"]].astype(float)).all()
    best = analysis.frames["best"].set_index(["variant", "measure"])["probability"]
    assert best[:, "fid"].sum() == pytest.approx(1)


class TestProcesses:
    """A seed that was trained on another number of processes than the others is marked wherever it is counted."""

    @pytest.fixture
    def analysis(self, tmp_path: Path) -> Analysis:
        write_campaign(tmp_path, CLEAR)
        trained_on(4, tmp_path / "n_iter-digits-32-seed1")
        for folder in list(find_run_folders(tmp_path)):
            score_again(folder, "clean", "clean-1")
        return analyse(choose_protocol(collect(tmp_path), "paper"))

    TEXT = "seed 1 on 4 processes, others on 1"

    def test_in_the_csvs(self, analysis: Analysis) -> None:
        summary = analysis.summary.set_index("variant")["other_processes"]
        assert summary.to_dict() == {"aae": "", "n_iter": self.TEXT, "kld_loss": ""}
        assert fid_comparison(analysis, "n_iter")["other_processes"] == f"n_iter: {self.TEXT}"
        assert fid_comparison(analysis, "kld_loss")["other_processes"] == ""
        rows = analysis.tables[0].rows.set_index("variant")["other_processes"]
        assert rows["n_iter"] == self.TEXT

    def test_in_markdown_and_latex(self, analysis: Analysis) -> None:
        markdown, latex = render_markdown(analysis.tables[0]), render_latex(analysis.tables[0])
        assert "| n-iter-IAAE | 3 ‡ |" in markdown
        assert "| <u>AAE</u> | 3 |" in markdown
        note = f"trained on another number of processes than most runs of the setting. n-iter-IAAE: {self.TEXT}."
        assert f"‡: {note}" in markdown
        assert r"n-iter-IAAE & 3 $^\ddagger$ &" in latex
        assert r"$^\ddagger$: trained on another" in latex

    def test_in_the_report(self, analysis: Analysis) -> None:
        paper = build_paper_table(analysis.tables[0])
        comparisons = build_comparison_table(analysis.comparisons)
        (runs,) = build_run_tables(analysis)
        assert comparisons is not None
        for table, texts in ((paper, ["3 ‡"]), (comparisons, ["3 ‡"] * 3), (runs, ["4 ‡"])):
            marked = [cell.text for row in table.rows for cell in row.cells if "‡" in cell.text]
            assert marked == texts
            assert "‡: trained on" in " ".join([table.caption, *table.notes])

    def test_on_the_terminal(self, analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        print_summary(analysis.summary)
        print_gap(analyse(collect(tmp_path)).frames["gap"])
        printed = capsys.readouterr().out
        assert printed.count("‡: trained on another number of processes") == 2
        assert "│ 3 ‡ │" in printed
        assert "│ 3, 3 ‡ │" in printed

    def test_all_of_one_cell_stand_out_beside_the_others_of_the_setting(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, CLEAR)
        for seed in range(3):
            trained_on(2, tmp_path / f"kld_loss-digits-32-seed{seed}")
        marks = summarise(collect(tmp_path).runs).set_index("variant")["other_processes"]
        assert marks.to_dict() == {"aae": "", "n_iter": "", "kld_loss": "seeds 0, 1, 2 on 2 processes, others on 1"}

    def test_settings_that_differ_in_it_as_wholes_have_no_marks(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, CLEAR)
        write_campaign(tmp_path, CLEAR, image_size=64)
        for folder in tmp_path.glob("*-64-*"):
            trained_on(2, folder)
        assert set(summarise(collect(tmp_path).runs)["other_processes"]) == {""}


def test_published_numbers_stand_beside_ours_and_are_called_another_protocol(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [30.0, 31.0], "n_iter": [25.0, 26.2]}, dataset="fashion_mnist")
    table = analysis_of(tmp_path).tables[0]
    assert table.stem == "table5-fashion_mnist"
    markdown = render_markdown(table, ["fid", "published_fid"])
    assert "131.259" in markdown
    assert "another protocol, from one seed: not comparable" in markdown


def test_latex_is_a_booktabs_table_with_nothing_left_unescaped(tmp_path: Path) -> None:
    write_campaign(tmp_path, CLEAR, dataset="fashion_mnist")
    latex = render_latex(analysis_of(tmp_path).tables[0])
    for piece in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\textbf{20.10} & $\pm$ & \textbf{0.95}",
        r"\underline{AAE}",
    ):
        assert piece in latex
    assert "_" not in latex.replace(r"\_", "")
    lines = [line for line in latex.splitlines() if " & " in line]
    assert {line.count("&") + 2 * line.count("multicolumn{3}") for line in lines} == {7}, "as many cells in each"


def test_both_sizes_of_ffhq_share_table_2_and_other_budgets_do_not(tmp_path: Path) -> None:
    campaign = {"aae": [30.0, 31.0], "n_iter": [25.0, 26.2]}
    write_campaign(tmp_path, campaign, dataset="ffhq", image_size=32, protocol_id="paper-32")
    write_campaign(tmp_path, campaign, dataset="ffhq", image_size=64, protocol_id="paper-64", batch_size=256)
    write_campaign(tmp_path, campaign, dataset="ffhq", prefix="long-", epochs=20, protocol_id="paper-32")
    tables = {table.stem: table.rows for table in analysis_of(tmp_path).tables}
    assert set(tables["table2-ffhq"]["image_size"]) == {32, 64}
    assert set(tables["table2-ffhq-20epochs"]["epochs"]) == {20}
    published = tables["table2-ffhq"].set_index(["image_size", "variant"])["published_fid"]
    assert published[64, "aae"] == 185.864


def test_noise_floor_and_reconstructions_are_rows_to_read_the_scores_by(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"n_iter": [9.0, 9.5]})
    for seed in (0, 1):
        floor = {f"floor.{name}/{score}": value for name in ("train_test", "split_half") for score, value in FLOOR}
        other = {
            key.replace("eval/", "eval.reconstruction/"): value
            for key, value in evaluation(4.0 + seed).items()
            if key.startswith("eval/") and key != "eval/sampler"
        }
        write_run(tmp_path, f"aae{seed}", {0: evaluation(90) | floor, 10: evaluation(10 + seed) | other}, seed=seed)
    analysis = analysis_of(tmp_path)
    references = analysis.frames["references"].set_index("reference")
    assert references["fid"].to_dict() == {"train_test": 1.5, "split_half": 1.5, "reconstruction": 4.5}
    assert references.loc["train_test", "n_fake"] == 50
    assert references.loc["reconstruction", "n"] == 2
    markdown = render_markdown(analysis.tables[0])
    assert "| real images: two halves of train | 1 | 1.50 |" in markdown
    assert "| reconstructions of the training images (aae) | 2 | 4.50 ± 0.71 |" in markdown
    assert set(analysis.collection.runs["sampler"]) == {"prior", "reconstruction"}, "a floor is no run"
    collapse = analysis.frames["collapse"]
    assert collapse["fid_reconstruction"].dropna().tolist() == [4.0, 5.0]


FLOOR = [("fid", 1.5), ("inception_score", 9.0), ("n_real", 100), ("n_fake", 50)]


class TestReportedEpoch:
    def write(self, root: Path) -> None:
        for seed in (0, 1):
            evaluations = {}
            for epoch, fid, held_out in ((5, 10.0 + seed, 10.5), (10, 12.0 + seed, 12.5)):
                repeat = {
                    k.replace("eval/", "eval.prior-1/"): v for k, v in evaluation(held_out).items() if "eval/" in k
                }
                evaluations[epoch] = evaluation(fid) | repeat | {"eval.prior-1/sampling_seed": 1}
            write_run(root, f"aae{seed}", evaluations, seed=seed)

    def test_the_last_one_unless_asked_otherwise_never_the_lowest(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        assert summarise(collect(tmp_path).runs)["fid_mean"].tolist() == [12.5]

    def test_held_out_chooses_by_other_codes_than_it_scores(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        summary = summarise(collect(tmp_path).runs, "held-out")
        assert summary["fid_mean"].tolist() == [10.5]
        assert summary[["epoch_first", "epoch_last"]].to_numpy().tolist() == [[5, 5]]
        assert summary["fid_sampling_std"].item() > 0

    def test_held_out_without_repeated_evaluations_is_refused(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, {"aae": [1.0]})
        with pytest.raises(InputError, match="--epoch last"):
            summarise(collect(tmp_path).runs, "held-out")


class TestProtocols:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        write_campaign(tmp_path, {"aae": [10.0, 11.0]}, protocol_id="paper-1")
        for folder in find_run_folders(tmp_path):
            score_again(folder, "clean", "clean-1", normalisation="running")
        return tmp_path

    def test_where_nobody_says_which_it_is_the_papers_and_the_others_are_named(self, mixed: Path) -> None:
        chosen = choose_protocol(collect(mixed), None)
        assert set(chosen.runs["protocol_id"]) == {"paper-1"}
        assert describe_choice(chosen) == "shown: paper-1; also there: clean-1 (--protocol ID shows one of them)"
        assert len(chosen.provenance) == 2, "the runs are there, whichever of their readings is shown"

    def test_a_name_that_leaves_several_is_refused_with_the_fields_that_differ(self, mixed: Path) -> None:
        for folder in find_run_folders(mixed):
            folder.evaluation("clean-1").path.rename(folder.evaluations / "kept-aside")
            (folder.evaluations / "kept-aside" / "protocol.json").rename(folder.path / "protocol.json")
            score_again(folder, "paper", "paper-2", n_fake=50)
        with pytest.raises(InputError, match=r"n_fake \(.*choose one with --protocol"):
            choose_protocol(collect(mixed), "paper")

    def test_two_readings_of_a_training_are_no_two_seeds(self, mixed: Path) -> None:
        assert summarise(collect(mixed).runs)["n"].tolist() == [2, 2]

    @pytest.mark.parametrize("wanted", ["clean", "clean-1"])
    def test_one_can_be_chosen_by_name_or_id(self, mixed: Path, wanted: str) -> None:
        assert set(choose_protocol(collect(mixed), wanted).runs["protocol_id"]) == {"clean-1"}

    def test_an_unknown_one_is_refused_with_the_valid_ones(self, mixed: Path) -> None:
        with pytest.raises(InputError, match="unknown protocol 'cleen'; did you mean"):
            choose_protocol(collect(mixed), "cleen")

    def test_side_by_side_each_has_its_own_table_and_the_gap_is_shown(self, mixed: Path) -> None:
        analysis = analysis_of(mixed)
        assert [set(table.rows["protocol_id"]) for table in analysis.tables] == [{"paper-1"}, {"clean-1"}] or [
            set(table.rows["protocol_id"]) for table in analysis.tables
        ] == [{"clean-1"}, {"paper-1"}]
        assert analysis.frames["gap"]["fid_gap"].tolist() == [0.0]
        assert set(analysis.frames["claims"]["protocol"]) == {"paper", "clean"}
        assert set(analysis.frames["protocols"]["field"]) == {
            *("name", "normalisation", "extractor", "n_real", "n_fake", "id")
        }


def test_runs_of_two_sweeps_with_the_same_settings_are_one_cell(tmp_path: Path) -> None:
    write_run(tmp_path, "a", {10: evaluation(5)}, seed=0, sweep="first")
    write_run(tmp_path, "b", {10: evaluation(7)}, seed=1, sweep="second")
    summary = summarise(collect(tmp_path).runs)
    assert summary["n"].tolist() == [2]
    assert summary["sweeps"].tolist() == ["first, second"]


def test_a_users_own_variant_is_compared_like_any(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [10.0, 11.0, 12.1]})
    for seed, fid in enumerate((5.0, 6.1, 7.0)):
        write_run(tmp_path, f"own{seed}", {10: evaluation(fid)}, seed=seed, variant="mine.doubled:Doubled", options={})
    assert fid_comparison(analysis_of(tmp_path), "mine.doubled:Doubled")["verdict"] == "better"


def test_comparisons_of_nothing_are_an_empty_table(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"n_iter": [1.0]})
    assert build_comparisons(reported_rows(collect(tmp_path).runs)).empty
    assert isinstance(analysis_of(tmp_path).comparisons, pd.DataFrame)
