"""The verdicts on the paper's claims: data made to support, refute, or leave each open."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from results.compute.analysis import analyse
from results.compute.claims import CLAIMS, complete, each_somewhere, every, most, nearly_all
from results.compute.tables import load_published
from results.read.collect import collect
from tests.results.runs import edit_evaluations, evaluation, write_campaign, write_run

BASE = [30.0, 31.0, 29.0]
LOWER = [20.2, 21.1, 18.9]
HIGHER = [40.2, 41.1, 38.9]
EQUAL = [30.3, 30.8, 29.1]


def verdicts(root: Path) -> dict[str, str]:
    claims = analyse(collect(root)).frames["claims"]
    return dict(zip(claims["claim"], claims["verdict"], strict=True))


def test_nothing_is_enough_data_for_no_claim(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": [30.0], "n_iter": [20.0]}, dataset="mnist")
    assert set(verdicts(tmp_path).values()) == {"not enough data"}


@pytest.mark.parametrize(
    ("claim", "variant", "dataset"),
    [("C3", "kld_loss", "cifar10"), ("C5", "latent_mapping", "emnist")],
)
@pytest.mark.parametrize(("fids", "verdict"), [(LOWER, "supported"), (HIGHER, "refuted"), (EQUAL, "undecided")])
def test_a_variant_helps_hurts_or_cannot_be_told(
    tmp_path: Path, claim: str, variant: str, dataset: str, fids: list[float], verdict: str
) -> None:
    write_campaign(tmp_path, {"aae": BASE, variant: fids}, dataset=dataset)
    assert verdicts(tmp_path)[claim] == verdict


def test_the_papers_options_are_judged_whatever_else_was_tried(tmp_path: Path) -> None:
    """No mapping at all comes first in every sorted list, and is no latent mapping."""
    write_campaign(tmp_path / "all" / "papers", {"aae": BASE}, dataset="emnist")
    for depth, fids in ((0, HIGHER), (4, LOWER), (8, HIGHER)):
        own = {"dataset": "emnist", "options": {"sigma": "linear", "depth": depth}, "prefix": f"{depth}-"}
        write_campaign(tmp_path / "all" / str(depth), {"latent_mapping": fids}, **own)
    assert verdicts(tmp_path)["C5"] == "supported"


@pytest.mark.parametrize(
    "other",
    [{"architecture": "conv"}, {"learning_rate": 3e-3}, {"batch_size": 256}, {"latent_dim": 2}, {"max_images": 1000}],
    ids=str,
)
def test_the_papers_own_settings_decide_where_there_are_any(tmp_path: Path, other: dict[str, Any]) -> None:
    """However many seeds another setting has; where there is no other, it decides, and the evidence names it."""
    more = {"aae": [*BASE, 30.5], "kld_loss": [*HIGHER, 40.1]}
    write_campaign(tmp_path / "all" / "others", more, dataset="cifar10", prefix="other-", **other)
    assert verdicts(tmp_path)["C3"] == "refuted"
    evidence = analyse(collect(tmp_path)).frames["claims_evidence"]
    (text,) = evidence.loc[evidence["claim"] == "C3", "text"]
    (name, value), *_ = other.items()
    assert (value if name == "architecture" else f"{name}={value:g}") in text
    write_campaign(tmp_path / "all" / "papers", {"aae": BASE, "kld_loss": LOWER}, dataset="cifar10")
    assert verdicts(tmp_path)["C3"] == "supported"


def test_every_claim_states_its_chances_of_a_false_verdict(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": BASE, "kld_loss": LOWER}, dataset="cifar10")
    claims = analyse(collect(tmp_path)).frames["claims"]
    assert len(claims) == len(CLAIMS)
    assert claims["errors"].str.contains("5 %").all()


def test_a_wider_margin_makes_equivalent_what_was_undecided(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": BASE, "kld_loss": EQUAL, "n_iter": LOWER, "feature": HIGHER})
    said = {}
    for margin in (0.01, 0.5):
        table = analyse(collect(tmp_path), margin=margin).comparisons
        own = table[(table["measure"] == "fid") & (table["variant"] == "kld_loss")]
        (said[margin],) = own.to_dict(orient="records")
    assert [row["verdict"] for row in said.values()] == ["undecided", "equivalent"]
    assert said[0.01]["more_seeds"] > 0, "the seeds that it would take"
    assert said[0.5]["more_seeds"] == 0
    assert said[0.5]["prior_cells"] == 4, "what the variances have borrowed stands beside the verdict"
    assert said[0.5]["prior_df"] > 0
    assert said[0.5]["prior_deviation"] > 0


class TestCollapse:
    def write(self, root: Path, sigma: float, epochs: int = 40) -> None:
        for seed in range(3):
            end = evaluation(10, sigma + 0.001 * seed, "variance" if sigma < 0.2 else "none")
            write_run(root, f"aae{seed}", {0: evaluation(100, 0.6), 10: end}, seed=seed, epochs=epochs)

    def test_supported_where_noise_vanishes(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.1)
        assert verdicts(tmp_path)["C1"] == "supported"

    def test_refuted_where_it_stays(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.6)
        assert verdicts(tmp_path)["C1"] == "refuted"

    def test_a_short_training_cannot_refute_a_limit(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.6, epochs=6)
        assert verdicts(tmp_path)["C1"] == "undecided"


@pytest.mark.parametrize(("end", "verdict"), [(28.0, "supported"), (1.0, "refuted")])
def test_fid_flattens_after_epoch_20_or_does_not(tmp_path: Path, end: float, verdict: str) -> None:
    for seed in range(3):
        fids = {0: 100.0, 20: 50.0 - seed, 40: end + seed / 2 if end < 20 else 47.0 - seed}
        evaluations = {epoch: evaluation(fid) for epoch, fid in fids.items()}
        write_run(tmp_path, f"aae{seed}", evaluations, seed=seed, epochs=40)
    assert verdicts(tmp_path)["C2"] == verdict


def test_n_iter_must_be_better_on_both_data_sets_and_beaten_on_none(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": BASE, "n_iter": LOWER}, dataset="mnist")
    assert verdicts(tmp_path)["C4"] == "not enough data"
    write_campaign(tmp_path, {"aae": BASE, "n_iter": LOWER}, dataset="fashion_mnist")
    assert verdicts(tmp_path)["C4"] == "supported"
    write_campaign(tmp_path, {"kld_loss": [10.1, 11.2, 8.9]}, dataset="mnist")
    assert verdicts(tmp_path)["C4"] == "refuted"


def test_hurting_nearly_everywhere_takes_three_data_sets(tmp_path: Path) -> None:
    both = {"aae": BASE, "feature": HIGHER, "equal_linear": HIGHER}
    for number, dataset in enumerate(("mnist", "emnist", "cifar10")):
        assert verdicts(tmp_path)["C6"] == "not enough data" if number else True
        write_campaign(tmp_path, both, dataset=dataset)
    assert verdicts(tmp_path)["C6"] == "supported"
    write_campaign(tmp_path, {"aae": BASE, "feature": LOWER, "equal_linear": LOWER}, dataset="fashion_mnist")
    assert verdicts(tmp_path)["C6"] == "refuted"


def test_one_variant_better_everywhere_refutes_that_none_is(tmp_path: Path) -> None:
    mixed = dict.fromkeys(["latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"], HIGHER)
    for dataset in ("mnist", "emnist", "cifar10"):
        write_campaign(tmp_path, {"aae": BASE} | mixed, dataset=dataset)
    assert verdicts(tmp_path)["C7"] == "supported"
    for dataset in ("mnist", "emnist", "cifar10"):
        for folder in tmp_path.glob(f"n_iter-{dataset}*"):
            edit_evaluations(folder, '"eval/fid": 4', '"eval/fid": 2')
            edit_evaluations(folder, '"eval/fid": 38', '"eval/fid": 18')
    assert verdicts(tmp_path)["C7"] == "refuted"


def test_every_verdict_has_its_numbers(tmp_path: Path) -> None:
    write_campaign(tmp_path, {"aae": BASE, "kld_loss": LOWER}, dataset="cifar10")
    frames = analyse(collect(tmp_path)).frames
    evidence = frames["claims_evidence"]
    row = evidence[evidence["claim"] == "C3"].iloc[0]
    assert row["estimate"] == pytest.approx(sum(LOWER) / 3 - sum(BASE) / 3)
    assert row["low"] < row["estimate"] < row["high"] < 0
    assert row["p_holm"] < 0.05
    text = frames["claims"].set_index("claim").loc["C3", "evidence"]
    assert str(text).startswith("cifar10 32 px: kld_loss - aae = -9.93 FID, n = 3 [")


def findings(*names: str) -> list[dict[str, object]]:
    """Evidence of one p each way: 0.001 for what is found, else 0.5."""
    return [
        {
            "variant": f"v{place}",
            "finding": name,
            "p_for": 0.001 if name == "for" else 0.999,
            "p_against": 0.001 if name == "against" else 0.999,
        }
        for place, name in enumerate(names)
    ]


def test_how_findings_become_verdicts() -> None:
    assert every(findings("for", "against")).verdict == "refuted"
    assert every(findings("for", "open")).verdict == "undecided"
    assert complete(findings("for", "missing")).verdict == "not enough data"
    assert most(findings("for", "for", "against")).verdict == "supported"
    assert nearly_all(findings("for", "for", "for", "for", "for", "open")).verdict == "supported"
    assert nearly_all(findings("for", "for", "for", "for", "against", "against")).verdict == "refuted"
    names = [*(f"C{number}" for number in range(1, 8)), *(f"M{number}" for number in range(1, 7))]
    assert [claim.name for claim in CLAIMS] == names


def test_one_weak_counterexample_among_many_data_sets_does_not_refute() -> None:
    """One of six data sets is against at 5 % by chance in one collection of four."""
    weak = [{**row, "p_against": 0.03} for row in findings("against")]
    assert every(weak).verdict == "refuted"
    assert every(weak + findings("open", "open", "open", "open", "open")).verdict == "undecided"


def test_each_variant_needs_its_exception_and_one_without_any_refutes() -> None:
    somewhere = [{**row, "variant": "a"} for row in findings("for", "against", "against")]
    everywhere = [{**row, "variant": "b"} for row in findings("against", "against", "against")]
    assert each_somewhere(somewhere).verdict == "supported"
    assert each_somewhere(somewhere + everywhere).verdict == "refuted"
    assert (
        each_somewhere(somewhere + [{**row, "variant": "c"} for row in findings("open", "open")]).verdict == "undecided"
    )


def test_the_published_single_runs_would_not_be_enough_for_any_claim(tmp_path: Path) -> None:
    published: pd.DataFrame = load_published()
    for row in published.itertuples():
        place: Any = {"dataset": row.dataset, "image_size": row.image_size}
        write_campaign(tmp_path, {str(row.variant): [float(str(row.fid))]}, **place)
    assert set(verdicts(tmp_path).values()) == {"not enough data"}
