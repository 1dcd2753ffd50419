"""What is not the paper's setting is said wherever the setting is named."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from results.commands import print_gap, print_summary
from results.compute.analysis import Analysis, analyse
from results.compute.baseline import is_published
from results.compute.findings import PROPOSED
from results.compute.gap import build_gap
from results.read.collect import collect
from results.read.labels import NEUTRAL, PAPER_OPTIONS, label_setting
from results.show.figures import draw_fid, draw_samples
from results.show.render import render_latex, render_markdown
from results.show.report import write_report
from results.show.report_tables import (
    build_collapse_tables,
    build_comparison_table,
    build_paper_table,
    build_protocol_tables,
    build_run_tables,
)
from results.show.sentences import describe
from results.show.write import writing
from tests.results.runs import edit_evaluations, evaluation, write_campaign, write_run
from variants import VARIANTS

FIDS = {"aae": [30.0, 31.0, 29.0], "n_iter": [20.2, 21.0, 19.1]}
CHANGED: dict[str, Any] = {"architecture": "conv", "mixed_precision": "bf16", "ema_decay": 0.999}
LABEL = "conv, bf16, ema_decay=0.999"


@pytest.fixture
def both(tmp_path: Path) -> Analysis:
    """The same variants in the paper's setting, and in another whose folders come first."""
    write_campaign(tmp_path, FIDS, dataset="fashion_mnist", pictures=True)
    write_campaign(tmp_path, FIDS, dataset="fashion_mnist", pictures=True, prefix="A-", **CHANGED)
    return analyse(collect(tmp_path))


def compare(a: Path, b: Path) -> int:
    return call(lambda: app(["compare", str(a), str(b)], result_action="return_value"))


def texts(table: Any) -> set[str]:
    return {cell.text for row in table.rows for cell in row.cells}


@pytest.mark.parametrize(
    ("changed", "label"),
    [
        ({}, ""),
        ({"architecture": "conv"}, "conv"),
        ({"mixed_precision": "tf32"}, "tf32"),
        ({"learning_rate": 3e-3}, "learning_rate=0.003"),
        ({"batch_size": 256, "image_size": 64}, ""),
        ({"batch_size": 256, "latent_dim": 2, "max_images": 5000.0}, "batch_size=256, latent_dim=2, max_images=5000"),
        ({"training": '{"betas": [0.5, 0.999], "optimizer": "adamw"}'}, "betas=[0.5,0.999], optimizer=adamw"),
        ({"mixed_precision": "bf16", "training": '{"sync_batchnorm": true}'}, "bf16, sync_batchnorm=true"),
    ],
)
def test_a_label_says_what_differs_and_nothing_else(changed: dict[str, Any], label: str) -> None:
    assert label_setting(pd.Series({"image_size": 32, **NEUTRAL, **changed})) == label


@pytest.mark.parametrize("variant", ["aae", *PROPOSED])
def test_the_papers_options_are_the_variants_own_defaults(variant: str) -> None:
    """results/ cannot ask the variants, as they import torch."""
    options = asdict(VARIANTS[variant].Options())
    assert is_published(variant, json.dumps(options))
    own = [name for name in options if name in PAPER_OPTIONS.get(variant, {})]
    assert own == [*PAPER_OPTIONS.get(variant, {})]
    for name in own:
        changed = "linear" if name == "sigma" else "prior_posterior" if name == "direction" else options[name] + 1
        assert not is_published(variant, json.dumps(options | {name: changed}))


class TestTables:
    def test_each_setting_has_its_own_and_the_papers_comes_first(self, both: Analysis) -> None:
        tables = {table.stem: table for table in both.tables}
        assert list(tables) == ["table5-fashion_mnist", "table5-fashion_mnist-conv-bf16-ema_decay-0.999"]
        plain, changed = tables.values()
        assert "fashion_mnist at 32 px after 10 epochs, mean" in plain.caption
        assert f"fashion_mnist at 32 px after 10 epochs ({LABEL}), mean" in changed.caption

    def test_the_caption_stands_in_every_form(self, both: Analysis) -> None:
        changed = both.tables[1]
        assert f"({LABEL})" in render_markdown(changed)
        assert f"({LABEL})" in render_latex(changed).replace("\\_", "_")
        assert f"({LABEL})" in build_paper_table(changed).caption

    def test_the_csv_has_columns_for_it(self, both: Analysis) -> None:
        expected = {"architecture": "conv", "mixed_precision": "bf16", "training": '{"ema_decay": 0.999}'}
        (found,) = both.tables[1].rows[[*NEUTRAL]].drop_duplicates().to_dict(orient="records")
        assert found.items() >= expected.items()
        for name in ("collapse", "claims_evidence", "comparisons", "summary"):
            assert {*NEUTRAL} <= set(both.frames[name]), name

    @pytest.mark.parametrize(
        ("changed", "published"),
        [({}, 131.259), ({"mixed_precision": "bf16"}, 131.259), ({"architecture": "conv"}, None), (CHANGED, None)],
    )
    def test_published_numbers_stand_beside_the_papers_networks_and_training_only(
        self, tmp_path: Path, changed: dict[str, Any], published: float | None
    ) -> None:
        write_campaign(tmp_path, FIDS, dataset="fashion_mnist", **changed)
        (table,) = analyse(collect(tmp_path)).tables
        numbers = table.rows.set_index("variant")["published_fid"].dropna().to_dict()
        assert numbers.get("aae") == published


class TestSettingsThatDifferInOneField:
    @pytest.fixture
    def rates(self, tmp_path: Path) -> Analysis:
        for rate in (3e-3, 1e-4, 1e-3):
            write_campaign(tmp_path, FIDS, dataset="fashion_mnist", prefix=f"{rate}-", learning_rate=rate)
        return analyse(collect(tmp_path))

    def test_share_a_table_with_that_field_as_a_column(self, rates: Analysis) -> None:
        (table,) = rates.tables
        assert "learning_rate" not in table.caption
        lines = render_markdown(table).splitlines()
        assert lines[2].startswith("| method | learning_rate | n |")
        shown = [line.split("|")[1:3] for line in lines[4:10]]
        assert [[cell.strip(" <u>/") for cell in pair] for pair in shown] == [
            [name, rate] for rate in ("0.0001", "0.001", "0.003") for name in ("AAE", "n-iter-IAAE")
        ]
        html = build_paper_table(table)
        assert [column["name"] for column in html.columns][:3] == ["method", "learning_rate", "px"]

    def test_the_published_numbers_stand_beside_the_papers_rate_alone(self, rates: Analysis) -> None:
        rows = rates.tables[0].rows
        assert set(rows.loc[rows["published_fid"].notna(), "learning_rate"]) == {1e-4}

    def test_those_that_differ_in_two_have_tables_of_their_own(self, both: Analysis) -> None:
        assert len(both.tables) == 2


class TestComparisons:
    def test_a_variant_meets_the_baseline_of_its_own_setting(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, {"aae": [30.0, 31.0, 29.0]})
        write_campaign(tmp_path, {"n_iter": [20.2, 21.0, 19.1]}, ema_decay=0.999)
        assert analyse(collect(tmp_path)).comparisons.empty

    def test_every_table_of_the_report_says_where(self, both: Analysis) -> None:
        for table in (
            build_comparison_table(both.comparisons),
            *build_collapse_tables(both),
            *build_run_tables(both),
        ):
            assert {"fashion_mnist 32 px", f"fashion_mnist 32 px ({LABEL})"} <= texts(table)

    def test_so_does_the_gap_between_protocols(self, both: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
        clean = both.summary.assign(protocol="clean", protocol_id="clean-1")
        gap = build_gap(pd.concat([both.summary, clean]))
        assert len(gap) == 4
        print_gap(gap)
        assert capsys.readouterr().out.count(f"fashion_mnist ({LABEL})") == 2
        both.frames["gap"] = gap
        *_, table = build_protocol_tables(both)
        assert {"fashion_mnist 32 px", f"fashion_mnist 32 px ({LABEL})"} <= texts(table)

    def test_cells_that_only_one_collection_has_are_told_apart(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "a", FIDS)
        write_campaign(tmp_path / "b", FIDS)
        write_campaign(tmp_path / "b", FIDS, prefix="other-", **CHANGED)
        assert compare(tmp_path / "a", tmp_path / "b") == 0
        assert f"only in B: aae on digits 32 px ({LABEL}), prior" in capfd.readouterr().out

    def test_a_regression_is_named_with_the_setting_that_both_have(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write_campaign(tmp_path / "a", {"aae": [10.0]}, architecture="conv")
        write_campaign(tmp_path / "b", {"aae": [20.0]}, architecture="conv", mixed_precision="bf16")
        assert compare(tmp_path / "a", tmp_path / "b") == 1
        captured = capfd.readouterr()
        assert "mixed_precision: no in A, bf16 in B" in captured.out
        assert "aae on digits 32 px (conv), prior: fid" in captured.err
        assert "digits 32 px (conv) " in captured.out


class TestSentences:
    def test_settings_are_named_where_there_are_several(self, both: Analysis) -> None:
        text = "\n".join(describe(both))
        assert f"on fashion_mnist at 32 px and fashion_mnist at 32 px ({LABEL}), with 3 seeds" in text
        assert "fashion_mnist at 32 px, 10 epochs: n_iter has" in text
        assert f"fashion_mnist at 32 px, 10 epochs ({LABEL}): n_iter has" in text
        assert f"better: n_iter on fashion_mnist 32 px (-9.90), n_iter on fashion_mnist 32 px ({LABEL}) (-9.90)" in text

    def test_the_collapse_of_different_settings_is_not_averaged(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, {"aae": [30.0]})
        write_campaign(tmp_path, {"aae": [30.0]}, prefix="conv-", architecture="conv")
        for folder in tmp_path.glob("conv-*"):
            edit_evaluations(folder, '"posterior/sigma_mean": [0-9.]+', '"posterior/sigma_mean": 0.9')
        sentences = "\n".join(describe(analyse(collect(tmp_path))))
        assert "The AAE's mean sigma goes from 0.600 before training to 0.100" in sentences
        assert "The AAE's mean sigma (conv) goes from 0.900 before training to 0.900" in sentences

    def test_the_claims_evidence_says_which_setting_it_is_of(self, tmp_path: Path) -> None:
        fids = {"aae": [30.0, 31.0, 29.0], "kld_loss": [20.2, 21.1, 18.9]}
        write_campaign(tmp_path, fids, dataset="cifar10", architecture="conv")
        claims = analyse(collect(tmp_path)).frames["claims"].set_index("claim")
        assert str(claims.loc["C3", "evidence"]).startswith("cifar10 32 px (conv): kld_loss - aae")

    def test_the_printed_summary_has_a_table_for_each(self, both: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
        print_summary(both.summary)
        printed = capsys.readouterr().out
        assert printed.count("fashion_mnist at 32 px, 10 epochs; protocol") == 1
        assert printed.count(f"fashion_mnist at 32 px, 10 epochs ({LABEL}); protocol") == 1


class TestFigures:
    def test_panels_are_titled(self, both: Analysis) -> None:
        (drawing,) = draw_fid(both.collection)
        titles = [axis.get_title() for axis in drawing.figure.axes]
        assert titles == ["fashion_mnist 32 px, 10 epochs", f"fashion_mnist 32 px, 10 epochs\n({LABEL})"]

    def test_samples_stand_under_their_setting(self, both: Analysis) -> None:
        (drawing,) = draw_samples(both.collection)
        titles = [axis.get_title() for axis in drawing.figure.axes[:2]]
        assert titles == [
            "fashion_mnist 32 px\n10 epochs",
            "fashion_mnist 32 px\n10 epochs\n(conv\nbf16\nema_decay=0.999)",
        ]


@pytest.fixture(scope="module")
def seen_by_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every figure and table that shows FID, of runs that EfficientNet has looked at."""
    root = tmp_path_factory.mktemp("seen")
    for dataset in ("digits", "mnist"):
        write_campaign(root, FIDS | {"vae": [20.0, 20.2, 19.9, 90.0]}, dataset=dataset)  # whose last seed is odd
    for number in range(3):
        for seed in range(2):
            values = evaluation(30 - number + seed, 0.1 + 0.2 * number) | {"eval.reconstruction/fid": 15.0}
            level = {"sigma": "linear", "sigma_floor": number / 10}
            write_run(root, f"level-{number}-{seed}", {10: values}, options=level, seed=seed, dataset="emnist")
        drawn = {"search": {"learning_rate": {"uniform": [0, 1]}}, "learning_rate": 0.1 + number / 10}
        values = evaluation(30 - number) | {"eval.prior-1/fid": 31.0 - number}
        write_run(root, f"trial-{number}", {10: values}, **drawn)
    for file in root.glob("*/evaluations/*/protocol.json"):
        file.write_text(file.read_text().replace('"domain"', '"efficientnet_lite0"'))
    with writing(root / "out", {}) as output:
        write_report(analyse(collect(root)), output, refresh=1)  # without the PDFs of one that stays
    return root / "out"


class TestAnotherNetwork:
    """A distance in another network's features than Inception's is called FID nowhere without that network's name."""

    NETWORK = "EfficientNet-Lite0"

    def test_is_named_in_every_figure(self, seen_by_another: Path) -> None:
        # Letters are shapes there, each line of them after a comment that says it.
        texts = {
            file.stem: "\n".join(re.findall("<!-- (.*?) -->", file.read_text(encoding="utf-8")))
            for file in (seen_by_another / "figures").glob("*.svg")
        }
        of_fid = {stem: text for stem, text in texts.items() if re.search(r"\bFID\b", text)}
        kinds = {"forest", "budgets", "dose", "figure9", "seeds", "fid", "option"}
        assert {stem.partition("-")[0] for stem in of_fid} == kinds
        assert [stem for stem, text in of_fid.items() if self.NETWORK not in text] == []

    def test_is_named_in_every_table_beside_every_figure_and_in_every_sentence(self, seen_by_another: Path) -> None:
        page = (seen_by_another / "report.html").read_text(encoding="utf-8")
        sentences = re.findall(r"<li>.*?</li>", page[: page.index('<section id="tables">')])
        shown = [*sentences, *re.findall(r"<figure class=.*?</figure>", page, re.DOTALL)]
        of_fid = [part for part in shown if re.search(r"\bFID\b", part)]
        tables = {name for part in of_fid for name in re.findall('<figure class="table" id="([a-z-]+)', part)}
        assert {"across", "comparisons", "spread", "tuned", "dose-response", "collapse-runs", "problems"} <= tables
        assert sum(part in of_fid for part in sentences) >= 3
        assert [part for part in of_fid if self.NETWORK not in part] == []
