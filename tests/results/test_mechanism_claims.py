"""The verdicts on M1 to M6: data made to support, refute, or leave each open."""

from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from results.compute.analysis import analyse
from results.read.collect import collect
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
        name = f"{variant}-{config.get('dataset', 'digits')}-{seed}"
        write_run(root, name, {10: evaluation(30.0 + seed) | own}, variant=variant, seed=seed, **config)


def scores(value: float, prefix: str = "") -> dict[str, float]:
    return {f"mechanism/{prefix}{name}": value for name in ("mig", "dci", "factorvae")}


class TestM1:
    @pytest.mark.parametrize(("mapped", "verdict"), [(0.4, "supported"), (0.1, "refuted"), (0.2, "undecided")])
    def test_the_mapped_codes_are_compared_with_the_aaes(self, tmp_path: Path, mapped: float, verdict: str) -> None:
        write_cell(tmp_path, "aae", scores(0.2))
        write_cell(tmp_path, "latent_mapping", scores(0.05) | scores(mapped, "mapped_"))
        found, evidence = judge(tmp_path, "M1")
        assert found == verdict
        assert list(evidence["quantity"]) == ["MIG minus AAE's", "DCI minus AAE's", "FactorVAE score minus AAE's"]
        assert evidence["estimate"].tolist() == pytest.approx([mapped - 0.2] * 3, abs=0.01)

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

    def test_one_of_each_decides_nothing(self, tmp_path: Path) -> None:
        self.write(tmp_path, 0.5, 2.0)
        verdict, evidence = judge(tmp_path, "M2")
        assert verdict == "undecided"
        assert evidence["finding"].tolist().count("for") == evidence["finding"].tolist().count("against") == 2

    def test_prior_kl_alone_is_there_without_mechanisms(self, tmp_path: Path) -> None:
        for variant, value in (("aae", 1.0), ("kld_loss", 0.5), ("n_iter", 0.5)):
            write_cell(tmp_path, variant, {"posterior/prior_kl": value})
        verdict, evidence = judge(tmp_path, "M2")
        assert verdict == "supported"
        assert set(evidence["quantity"]) == {"prior KL minus AAE's"}


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

    AAE: ClassVar = {1e-4: [20.0, 20.4, 19.7], 3e-3: [10.0, 10.4, 9.7], 1e-2: [15.0, 15.4, 14.7]}

    def test_each_at_its_own_best_rate(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {1e-4: [40.0, 40.4, 39.0], 2e-2: [5.0, 5.2, 4.9]})
        verdict, evidence = judge(tmp_path, "M4")
        assert verdict == "supported"
        (row,) = evidence.to_dict(orient="records")
        assert row["n"] == 2, "the seed that chose does not judge"
        assert row["estimate"] == pytest.approx((5.2 + 4.9) / 2 - (10.4 + 9.7) / 2)
        assert "0.003 (aae) and 0.02 (equal_linear)" in row["text"]

    def test_worse_at_its_best_refutes(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {1e-4: [40.0, 40.4, 39.0], 2e-2: [20.0, 20.2, 19.9]})
        assert judge(tmp_path, "M4")[0] == "refuted"

    def test_the_lucky_choice_does_not_judge(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {1e-4: [40.0, 40.4, 39.0], 2e-2: [1.0, 20.2, 19.9]})
        assert judge(tmp_path, "M4")[0] == "refuted"

    def test_one_rate_is_no_choice(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", self.AAE)
        self.write(tmp_path, "equal_linear", {1e-4: [5.0, 5.2, 4.9]})
        verdict, evidence = judge(tmp_path, "M4")
        assert verdict == "not enough data"
        assert "equal_linear: 1 learning rates of 2 needed" in evidence["text"].iloc[0]

    def test_two_seeds_leave_one_to_judge(self, tmp_path: Path) -> None:
        self.write(tmp_path, "aae", {rate: fids[:2] for rate, fids in self.AAE.items()})
        self.write(tmp_path, "equal_linear", {1e-4: [40.0, 40.4], 2e-2: [5.0, 5.2]})
        assert judge(tmp_path, "M4")[0] == "not enough data"


class TestM5:
    @pytest.mark.parametrize(
        ("fids", "verdict"),
        [([30, 25, 20, 15], "supported"), ([15, 20, 25, 30], "refuted"), ([20, 15, 15.2, 20.2], "undecided")],
    )
    def test_fid_falls_with_noise_or_rises_or_does_both(self, tmp_path: Path, fids: list[float], verdict: str) -> None:
        write_floors(tmp_path, fids)
        found, evidence = judge(tmp_path, "M5")
        assert found == verdict
        assert evidence["n"].tolist() == [12]

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

    def write(self, root: Path, treated: float, held: float = 0.5) -> None:
        """Untreated every technique has the AAE's FID; with a floor its FID is `treated` times the AAE's."""
        for seed in range(3):
            for floor in (0.0, 0.5):
                aae = 30 - 20 * floor + seed
                sigma = held if floor else 0.1
                write_point(root, aae, sigma, seed, options={"sigma_floor": floor})
                for number, variant in enumerate(self.VARIANTS):
                    ratio = (treated if floor else 1.0) * (1 + JITTER[(seed + number + int(2 * floor)) % 3])
                    options = {"sigma_floor": floor, "n": 3} if variant == "n_iter" else {"sigma_floor": floor}
                    write_point(root, aae * ratio, sigma, seed, variant=variant, options=options)

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
