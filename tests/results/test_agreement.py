"""Two extractors that have seen the same trained runs: what each says of a variant, and where they disagree."""

from pathlib import Path

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from results.compute.analysis import analyse
from results.read.collect import collect
from results.read.protocols import choose_protocol
from tests.results.runs import evaluation, write_evaluation, write_run

FIDS = {  # as the domain classifier sees it, and EfficientNet
    "aae": ([10.0, 10.2, 9.9], [100.0, 101.0, 99.0]),
    "n_iter": ([5.0, 5.1, 4.9], [50.0, 51.0, 49.0]),
    "feature": ([5.0, 5.1, 4.9], [200.0, 203.0, 198.0]),
}
OTHER = {"eval/protocol": "efficientnet_lite0", "eval/extractor": "efficientnet_lite0"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for variant, (fids, others) in FIDS.items():
        for seed, (fid, other) in enumerate(zip(fids, others, strict=True)):
            folder = write_run(tmp_path, f"{variant}-{seed}", {10: evaluation(fid)}, variant=variant, seed=seed)
            write_evaluation(folder, 10, evaluation(other, protocol_id="efficientnet_lite0-1") | OTHER)
    return tmp_path


def agreement(runs: Path, protocol: str | None = None) -> pd.DataFrame:
    whole = collect(runs)
    chosen = choose_protocol(whole, protocol)
    return analyse(chosen, every_reading=whole).frames["agreement"].set_index("variant")


def test_two_extractors_agree_or_disagree_on_the_same_runs(runs: Path) -> None:
    table = agreement(runs)
    assert table["agreement"].to_dict() == {"n_iter": "agree", "feature": "disagree"}
    feature = table.loc[["feature"]].to_dict(orient="records")[0]
    said = [feature[name] for name in ("extractor", "verdict", "extractor_other", "verdict_other")]
    assert said == ["efficientnet_lite0", "worse", "domain", "better"]
    assert feature["ratio"] == pytest.approx(2, rel=0.01)
    assert feature["ratio_other"] == pytest.approx(0.5, rel=0.01)
    assert table["n"].tolist() == [3, 3]
    assert table["runs"].tolist() == [9, 9], "six runs of variants, and three of the AAE"


def test_whichever_is_shown_both_are_compared(runs: Path) -> None:
    assert agreement(runs, "domain").equals(agreement(runs, "efficientnet_lite0"))


def test_the_correlation_is_that_of_the_ranks_over_all_runs(runs: Path) -> None:
    whole = collect(runs).runs.pivot_table(index="run_id", columns="extractor", values="fid")
    expected = whole.corr("spearman").loc["domain", "efficientnet_lite0"]
    assert agreement(runs)["correlation"].tolist() == pytest.approx([expected, expected])


def test_what_one_of_them_leaves_undecided_is_open(tmp_path: Path) -> None:
    for variant, fid in (("aae", 10.0), ("n_iter", 5.0)):
        folder = write_run(tmp_path, variant, {10: evaluation(fid)}, variant=variant)
        write_evaluation(folder, 10, evaluation(fid, protocol_id="efficientnet_lite0-1") | OTHER)
    assert agreement(tmp_path)["agreement"].tolist() == ["open"], "one seed decides nothing"


def test_a_run_that_one_alone_has_seen_takes_no_part(runs: Path) -> None:
    write_run(runs, "kld_loss-0", {10: evaluation(7.0)}, variant="kld_loss")
    assert set(agreement(runs).index) == {"n_iter", "feature"}


def test_two_protocols_of_one_extractor_are_no_two_pairs_of_eyes(tmp_path: Path) -> None:
    for variant in ("aae", "n_iter"):
        folder = write_run(tmp_path, variant, {10: evaluation(5.0)}, variant=variant)
        write_evaluation(folder, 10, evaluation(6.0, protocol_id="clean-1") | {"eval/protocol": "clean"})
    assert agreement(tmp_path).empty


def test_the_report_says_where_they_disagree(runs: Path) -> None:
    assert call(lambda: app(["report", str(runs), "--out", str(runs / "out")], result_action="return_value")) == 0
    page = (runs / "out" / "report.html").read_text(encoding="utf-8")
    assert "Two pairs of eyes" in page
    assert "disagree" in page
    assert pd.read_csv(runs / "out" / "agreement.csv")["agreement"].tolist().count("disagree") == 1


def test_another_networks_distance_is_never_called_fid_without_its_name(runs: Path) -> None:
    out = runs / "out"
    command = ["report", str(runs), "--out", str(out), "--protocol", "efficientnet_lite0"]
    assert call(lambda: app(command, result_action="return_value")) == 0
    named = "digits at 32 px after 10 epochs (seen by EfficientNet-Lite0)"
    table = next((out / "tables").glob("*.md")).read_text(encoding="utf-8")
    assert named in table
    page = (out / "report.html").read_text(encoding="utf-8")
    sentences = [line for line in page.splitlines() if "lowest FID" in line]
    assert sentences
    assert all("seen by EfficientNet-Lite0" in line for line in sentences)
    evidence = pd.read_csv(out / "claims_evidence.csv")["text"]
    assert evidence[evidence.str.contains("FID")].str.contains("seen by EfficientNet-Lite0").all()
