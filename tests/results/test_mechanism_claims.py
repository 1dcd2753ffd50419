"""The verdicts on M1 to M6: data made to support, refute, or leave each open."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from results.compute.analysis import analyse
from results.read.collect import collect
from slurm.sweep import SHIPPED, load_sweep
from tests.results.runs import evaluation, write_run
from tests.results.test_dose import PLAIN, write_floors, write_point

# What three seeds add to a measure of some size: they differ, and not in one direction.
JITTER = (0.0, 0.03, -0.02)
OTHER_JITTER = (0.01, -0.03, 0.02)


def judge(root: Path, claim: str) -> tuple[str, pd.DataFrame]:
    """The verdict, and the evidence."""
    tables = analyse(collect(root)).frames
    verdicts, evidence = tables["claims"].set_index("claim")["verdict"], tables["claims_evidence"]
    return verdicts[claim], evidence[evidence["claim"] == claim]


def write_cell(root: Path, variant: str, measures: dict[str, float], **config: Any) -> None:
    """Three seeds, whose measures differ by a few percent."""
    for seed in range(3):
        jitter = JITTER if variant == "aae" else OTHER_JITTER
        own = {name: value * (1 + jitter[seed]) for name, value in measures.items()}
        options = "".join(str(value) for value in config.get("options", {}).values())
        name = f"{variant}{options}-{config.get('dataset', 'digits')}-{seed}"
        write_run(root, name, {10: evaluation(30.0 + seed) | own}, variant=variant, seed=seed, **config)


def scores(value: float, prefix: str = "") -> dict[str, float]:
    return {f"mechanism/{prefix}{name}": value for name in ("mig", "dci", "factorvae")}


def test_without_an_aae_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    write_cell(tmp_path, "n_iter", scores(0.2) | {"posterior/prior_kl": 1.0}, options=PLAIN | {"n": 3})
    write_cell(tmp_path, "n_iter", scores(0.2), options=PLAIN | {"n": 3, "sigma_floor": 0.3})
    claims = analyse(collect(tmp_path)).frames["claims"].set_index("claim")["verdict"]
    assert set(claims[["M1", "M2", "M3", "M4", "M5", "M6"]]) == {"not enough data"}


class TestM1:
    @pytest.mark.parametrize(("mapped", "verdict"), [(0.4, "supported"), (0.1, "refuted"), (0.2, "undecided")])
    def test_the_mapped_codes_are_compared_with_the_aaes(self, tmp_path: Path, mapped: float, verdict: str) -> None:
        write_cell(tmp_path, "aae", scores(0.2) | {"mechanism/total_correlation": 2.0})
        correlation = {"mechanism/total_correlation": 2.0, "mechanism/mapped_total_correlation": 0.4 / mapped}
        write_cell(tmp_path, "latent_mapping", scores(0.05) | scores(mapped, "mapped_") | correlation)
        found, evidence = judge(tmp_path, "M1")
        assert found == verdict
        measures = ("MIG", "DCI", "FactorVAE score", "total correlation")
        assert list(evidence["quantity"]) == [f"{measure} minus AAE's" for measure in measures]
        expected = [mapped - 0.2] * 3 + [0.4 / mapped - 2.0]
        assert evidence["estimate"].tolist() == pytest.approx(expected, abs=0.03)

    def test_the_papers_depth_is_judged_and_no_other(self, tmp_path: Path) -> None:
        write_cell(tmp_path, "aae", scores(0.2))
        write_cell(tmp_path, "latent_mapping", scores(0.2) | scores(0.4, "mapped_"), options=PLAIN | {"depth": 4})
        write_cell(tmp_path, "latent_mapping", scores(0.2) | scores(0.02, "mapped_"), options=PLAIN | {"depth": 1})
        assert judge(tmp_path, "M1")[0] == "supported"

    def test_data_without_factors_say_nothing(self, tmp_path: Path) -> None:
        write_cell(tmp_path, "aae", {"mechanism/probe_accuracy": 0.5})
        write_cell(tmp_path, "latent_mapping", {"mechanism/probe_accuracy": 0.9})
        assert judge(tmp_path, "M1")[0] == "not enough data"


class TestM2:
    def write(self, root: Path, kld: float, n_iter: float) -> None:
        for variant, value in (("aae", 1.0), ("kld_loss", kld), ("n_iter", n_iter)):
            write_cell(root, variant, {"posterior/prior_kl": value, "mechanism/mmd": 0.01 * value})

    def test_both_nearer_support_and_both_farther_refute(self, tmp_path: Path) -> None:
        self.write(tmp_path / "near", 0.5, 0.6)
        assert judge(tmp_path / "near", "M2")[0] == "supported"
        self.write(tmp_path / "far", 2.0, 1.5)
        assert judge(tmp_path / "far", "M2")[0] == "refuted"

    def test_both_must_hold_and_one_against_refutes(self, tmp_path: Path) -> None:
        self.write(tmp_path / "against", 0.5, 2.0)
        verdict, evidence = judge(tmp_path / "against", "M2")
        assert verdict == "refuted"
        assert evidence["finding"].tolist().count("for") == evidence["finding"].tolist().count("against") == 2
        self.write(tmp_path / "open", 0.5, 1.0)
        assert judge(tmp_path / "open", "M2")[0] == "undecided"

    def test_one_alone_is_not_enough(self, tmp_path: Path) -> None:
        for variant, value in (("aae", 1.0), ("n_iter", 0.5)):
            write_cell(tmp_path, variant, {"posterior/prior_kl": value, "mechanism/mmd": value})
        assert judge(tmp_path, "M2")[0] == "not enough data"

    def test_one_step_of_n_iter_is_the_aae_and_is_not_judged(self, tmp_path: Path) -> None:
        for variant, value, own in (
            ("aae", 1.0, {}),
            ("kld_loss", 0.5, {"sigma": "exp"}),
            ("n_iter", 0.3, {"n": 3}),
            ("n_iter", 1.5, {"n": 1}),
        ):
            write_cell(tmp_path, variant, {"posterior/prior_kl": value}, options=PLAIN | own)
        assert judge(tmp_path, "M2")[0] == "supported"

    def test_kld_loss_is_held_against_the_aae_of_its_head(self, tmp_path: Path) -> None:
        """Its head alone halves the KL here: what the loss adds to that is nothing."""
        self.write(tmp_path, 0.5, 0.5)
        exp = {"posterior/prior_kl": 0.45, "mechanism/mmd": 0.0045}
        write_cell(tmp_path, "aae", exp, options=PLAIN | {"sigma": "exp"})
        verdict, evidence = judge(tmp_path, "M2")
        assert verdict == "refuted"
        assert evidence["text"].str.contains("kld_loss - aae (sigma=exp)", regex=False).sum() == 2

    def test_an_mmd_within_its_noise_floor_cannot_be_nearer(self, tmp_path: Path) -> None:
        for variant, value in (("aae", 0.01), ("kld_loss", 0.002), ("n_iter", 0.002)):
            write_cell(tmp_path, variant, {"mechanism/mmd": value, "mechanism/mmd_floor": 0.006})
        verdict, evidence = judge(tmp_path, "M2")
        assert verdict == "not enough data"
        assert evidence["text"].str.contains("the aae's MMD is within its noise floor already").all()

    def test_prior_kl_alone_is_there_without_mechanisms(self, tmp_path: Path) -> None:
        for variant, value in (("aae", 1.0), ("kld_loss", 0.5), ("n_iter", 0.5)):
            write_cell(tmp_path, variant, {"posterior/prior_kl": value})
        verdict, evidence = judge(tmp_path, "M2")
        assert verdict == "supported"
        assert set(evidence["quantity"]) == {"prior KL minus AAE's"}

    def test_options_that_are_none_of_the_papers_are_not_judged_and_that_is_said(self, tmp_path: Path) -> None:
        write_cell(tmp_path, "aae", {"posterior/prior_kl": 1.0}, options=PLAIN)
        for n in (2, 5):
            write_cell(tmp_path, "n_iter", {"posterior/prior_kl": 0.3}, options=PLAIN | {"n": n})
        claims = analyse(collect(tmp_path)).frames["claims"].set_index("claim")
        assert claims.loc["M2", "verdict"] == "not enough data"
        assert "those with the paper's" in str(claims.loc["M2", "evidence"])


class TestM3:
    @pytest.mark.parametrize(("shift", "verdict"), [(0.1, "supported"), (0.9, "refuted"), (0.3, "undecided")])
    def test_the_code_shift_of_feature(self, tmp_path: Path, shift: float, verdict: str) -> None:
        for variant, value in (("aae", 0.3), ("feature", shift)):
            write_cell(tmp_path, variant, {f"mechanism/code_shift_{d}px": value * d for d in (1, 2, 4)})
        found, evidence = judge(tmp_path, "M3")
        assert found == verdict
        assert len(evidence) == 3


class TestM4:
    """A run for each seed and learning rate; the first seed chooses."""

    def write(self, root: Path, variant: str, fids: dict[float, list[float]]) -> None:
        for rate, values in fids.items():
            for seed, fid in enumerate(values):
                write_point(root, fid, 0.5, seed, variant=variant, learning_rate=rate)

    AAE: ClassVar = {1e-4: [20.0, 20.4, 19.7], 3e-3: [10.0, 10.4, 9.7], 2e-2: [15.0, 15.4, 14.7]}
    WORSE: ClassVar = {1e-4: [40.0, 40.4, 39.0], 3e-3: [30.0, 30.4, 29.0]}

    def test_each_at_its_own_best_rate(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {**self.WORSE, 2e-2: [5.0, 5.2, 4.9]})
        verdict, evidence = judge(tmp_path, "M4")
        assert verdict == "supported"
        (row,) = evidence.to_dict(orient="records")
        assert row["n"] == 2, "the seed that chose does not judge"
        assert row["estimate"] == pytest.approx((5.2 + 4.9) / 2 - (10.4 + 9.7) / 2)
        assert "0.003 (aae) and 0.02 (equal_linear, at the edge)" in row["text"]

    def test_neither_chooses_among_more_rates_than_the_other(self, tmp_path: Path) -> None:
        """The AAE's best rate is one that equal_linear was not trained at."""
        self.write(tmp_path, "aae", self.AAE)
        more = {1e-4: [40.0, 40.4, 39.0], 3e-3: [12.0, 12.2, 11.9], 5e-3: [5.0, 5.2, 4.9]}
        self.write(tmp_path, "equal_linear", more)
        verdict, evidence = judge(tmp_path, "M4")
        assert verdict == "refuted"
        assert "0.003 (aae, at the edge) and 0.003 (equal_linear, at the edge)" in evidence["text"].iloc[0]

    def test_worse_at_its_best_refutes(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {**self.WORSE, 2e-2: [20.0, 20.2, 19.9]})
        assert judge(tmp_path, "M4")[0] == "refuted"

    def test_the_lucky_choice_does_not_judge(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {**self.WORSE, 2e-2: [1.0, 20.2, 19.9]})
        assert judge(tmp_path, "M4")[0] == "refuted"

    def test_one_rate_is_no_choice(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {1e-4: [5.0, 5.2, 4.9]})
        verdict, evidence = judge(tmp_path, "M4")
        assert verdict == "not enough data"
        assert "equal_linear: 1 learning rates that both have, of 2 needed" in evidence["text"].iloc[0]

    def test_two_seeds_leave_one_to_judge(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", {rate: fids[:2] for rate, fids in self.AAE.items()})
        self.write(tmp_path, "equal_linear", {1e-4: [40.0, 40.4], 2e-2: [5.0, 5.2]})
        assert judge(tmp_path, "M4")[0] == "not enough data"


class TestM5:
    """Floors of 0, 0.1, 0.2, 0.3: noise shares of 0.01, 0.04, 0.08, 0.14."""

    @pytest.mark.parametrize(
        ("fids", "verdict"),
        [([30, 25, 20, 15], "supported"), ([15, 20, 25, 30], "refuted"), ([20, 15, 15.2, 20.2], "undecided")],
    )
    def test_fid_is_lower_out_of_the_collapse_or_higher(self, tmp_path: Path, fids: list[float], verdict: str) -> None:
        write_floors(tmp_path, fids)
        found, evidence = judge(tmp_path, "M5")
        assert found == verdict
        assert evidence["finding"].iloc[0] == "missing", "a floor of 0.1 leaves the noise share at 0.04"
        assert evidence["estimate"].iloc[1:].tolist() == pytest.approx([fids[2] - fids[0], fids[3] - fids[0]])

    def test_too_much_of_a_remedy_is_no_verdict_on_the_collapse(self, tmp_path: Path) -> None:
        """The FID falls as the collapse ends, and rises as the noise drowns the image."""
        for floor, sigma, fid in ((0.0, 0.1, 30), (0.1, 0.4, 14), (0.2, 0.6, 12), (0.5, 2.0, 40), (1.0, 4.0, 90)):
            for seed in range(3):
                write_point(tmp_path, fid + seed, sigma + 0.01 * seed, seed, options={"sigma_floor": floor})
        verdict, evidence = judge(tmp_path, "M5")
        assert verdict == "supported"
        assert evidence["text"].str.contains("more noise than image").sum() == 2

    def test_what_has_not_collapsed_says_nothing(self, tmp_path: Path) -> None:
        for floor, sigma in ((0.0, 0.3), (0.1, 0.5), (0.2, 0.6)):
            for seed in range(3):
                write_point(tmp_path, 30 - 10 * floor + seed, sigma, seed, options={"sigma_floor": floor})
        verdict, evidence = judge(tmp_path, "M5")
        assert verdict == "not enough data"
        assert evidence["text"].str.contains("nothing has collapsed").all()

    def test_levels_that_differ_by_chance_decide_nothing(self, tmp_path: Path) -> None:
        """Each level has a FID of its own, up or down, and its seeds agree: levels are no replicates of one another."""
        for floor, fid in enumerate((20, 24, 16, 25, 15)):
            for seed in range(3):
                options = {"sigma_floor": floor / 10}
                write_point(tmp_path, fid + 0.1 * seed, 0.1 + 0.15 * floor, seed, options=options)
        assert judge(tmp_path, "M5")[0] == "undecided"

    def test_a_dose_beside_a_run_at_the_papers_rate_is_found(self, tmp_path: Path) -> None:
        for level, fid in enumerate([30, 25, 20, 15]):
            for seed in range(3):
                options = {"sigma_floor": level / 10}
                write_point(tmp_path, fid + 0.1 * seed, 0.1 + level / 10, seed, options=options, learning_rate=3e-3)
        write_point(tmp_path, 50, 0.1, 0)
        assert judge(tmp_path, "M5")[0] == "supported"

    def test_the_head_of_the_remedy_is_that_of_what_it_is_held_against(self, tmp_path: Path) -> None:
        for weight, sigma, fid in ((0.0, 0.1, 30), (0.1, 0.5, 15)):
            for seed in range(3):
                options = {"sigma": "exp", "log_variance_penalty": weight}
                write_point(tmp_path, fid + seed, sigma + 0.01 * seed, seed, options=options)
        verdict, evidence = judge(tmp_path, "M5")
        assert verdict == "supported"
        assert evidence["text"].str.contains("aae with log_variance_penalty=0.1, sigma=exp - aae").all()

    def test_one_seed_a_level_is_not_enough(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25, 20, 15], seeds=1)
        assert judge(tmp_path, "M5")[0] == "not enough data"

    def test_learning_rates_hold_no_sigma(self, tmp_path: Path) -> None:
        for level, rate in enumerate((1e-4, 1e-3, 1e-2)):
            for seed in range(3):
                write_point(tmp_path, 30 - level + 0.1 * seed, 0.1 + level / 10, seed, learning_rate=rate)
        assert judge(tmp_path, "M5")[0] == "not enough data"


class TestM6:
    VARIANTS = ("latent_mapping", "n_iter", "feature")

    def write(self, root: Path, treated: float, held: float = 0.5, untreated: float = 0.1, **options: str) -> None:
        """Untreated every technique has the AAE's FID; with a floor its FID is `treated` times the AAE's."""
        for seed in range(3):
            for floor in (0.0, 0.5):
                aae = 30 - 20 * floor + seed
                sigma = held if floor else untreated
                write_point(root, aae, sigma, seed, options={"sigma_floor": floor, **options})
                for number, variant in enumerate(self.VARIANTS):
                    ratio = (treated if floor else 1.0) * (1 + JITTER[(seed + number + int(2 * floor)) % 3])
                    own = {"n": 3} if variant == "n_iter" else {}
                    every = {"sigma_floor": floor, **own, **options}
                    write_point(root, aae * ratio, sigma, seed, variant=variant, options=every)

    @pytest.mark.parametrize(("treated", "verdict"), [(0.6, "supported"), (1.6, "refuted"), (1.0, "undecided")])
    def test_a_technique_helps_more_with_the_remedy_or_less(self, tmp_path: Path, treated: float, verdict: str) -> None:
        self.write(tmp_path, treated)
        found, evidence = judge(tmp_path, "M6")
        assert found == verdict
        assert evidence["estimate"].tolist() == pytest.approx([treated] * 3, rel=0.1)
        assert sorted(evidence["variant"]) == sorted(self.VARIANTS)

    def test_a_remedy_that_does_not_hold_sigma_cures_nothing(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.6, held=0.15)
        verdict, evidence = judge(tmp_path, "M6")
        assert verdict == "not enough data"
        assert "noise share is 0.022" in evidence["text"].iloc[0] or "noise share is 0.023" in evidence["text"].iloc[0]

    def test_what_has_not_collapsed_needs_no_cure(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.6, untreated=0.4)
        verdict, evidence = judge(tmp_path, "M6")
        assert verdict == "not enough data"
        assert evidence["text"].str.contains("the AAE has not collapsed without it").all()

    def test_two_spellings_of_no_kl_are_the_same_seeds(self, tmp_path: Path) -> None:
        """A grid over kl_direction trains the same thing twice where kl_weight is 0."""
        self.write(tmp_path / "one", 0.8)
        for direction in ("posterior_prior", "prior_posterior"):
            self.write(tmp_path / "two" / direction, 0.8, kl_direction=direction)
        n = [judge(tmp_path / name, "M6")[1]["n"].tolist() for name in ("one", "two")]
        assert n == [[3, 3, 3], [3, 3, 3]]

    def test_a_remedy_of_the_exp_head_pairs_kld_loss_with_the_aae_of_that_head(self, tmp_path: Path) -> None:
        own = {name: value for name, value in PLAIN.items() if "kl_" not in name} | {"sigma": "exp", "weight": 0.1}
        for seed in range(2):
            for penalty in (0.0, 0.1):
                head = "exp" if penalty else "linear"
                options = {"sigma": head, "log_variance_penalty": penalty}
                write_point(tmp_path, 30 - 50 * penalty + seed, 0.1 + 5 * penalty, seed, options=options)
                values = {10: evaluation(30 - 100 * penalty - seed, 0.5)}
                more = own | {"log_variance_penalty": penalty}
                write_run(tmp_path, f"kld-{penalty}-{seed}", values, variant="kld_loss", options=more, seed=seed)
        evidence = judge(tmp_path, "M6")[1]
        assert evidence["text"].str.contains("kld_loss with log_variance_penalty=0.1").tolist() == [True]

    def test_the_shipped_sweep_pairs_every_technique_with_every_remedy(self, tmp_path: Path) -> None:
        for config in load_sweep(SHIPPED / "techniques.yaml").configs:
            options = asdict(config.options)
            held = bool(options["sigma_floor"] or options["sigma_penalty"])
            better = held and config.variant != "aae"
            fid = 30 - 10 * better + config.seed * (1.1 if better else 1)
            values = {10: evaluation(fid, 0.5 if held else 0.1)}
            write_run(tmp_path, config.run_id, values, **config.model_dump(mode="json"))
        verdict, evidence = judge(tmp_path, "M6")
        assert verdict == "supported"
        assert len(evidence) == 4 * 2
        assert set(evidence["finding"]) == {"for"}

    def test_kld_losss_own_head_is_no_remedy(self, tmp_path: Path) -> None:
        for seed in range(2):
            for floor in (0.0, 0.5):
                write_point(tmp_path, 30 + seed, 0.1 + floor, seed, options={"sigma_floor": floor})
                own = {name: value for name, value in PLAIN.items() if "kl_" not in name}
                own |= {"sigma": "exp", "sigma_floor": floor, "weight": 0.1}
                name = f"kld-{floor}-{seed}"
                values = {10: evaluation(30 - 20 * floor - seed, 0.1 + floor)}
                write_run(tmp_path, name, values, variant="kld_loss", options=own, seed=seed)
        verdict, evidence = judge(tmp_path, "M6")
        assert verdict in ("supported", "undecided")
        assert evidence["text"].str.contains("kld_loss with sigma_floor=0.5").all()

    def test_a_remedy_that_one_of_the_two_lacks_compares_nothing(self, tmp_path: Path) -> None:
        write_point(tmp_path, 30, 0.1, 0)
        write_point(tmp_path, 30, 0.1, 0, variant="feature")
        write_point(tmp_path, 20, 0.5, 0, variant="feature", options={"sigma_floor": 0.5})
        verdict, evidence = judge(tmp_path, "M6")
        assert verdict == "not enough data"
        assert evidence.empty
