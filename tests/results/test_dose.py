"""Doses are found where runs differ in one number, and their response is read against the noise share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from results.compute.analysis import analyse
from results.compute.dose import DOSE, FAMILY, RESPONSES, build_responses, correlate
from results.read.collect import collect
from results.show.figures.dose import draw_dose
from tests.results.runs import evaluation, write_run

DOSE_ONLY = [column.name for column in DOSE if column.name not in FAMILY]
PLAIN = {
    "sigma": "linear",
    "sigma_floor": 0.0,
    "sigma_penalty": 0.0,
    "log_variance_penalty": 0.0,
    "kl_weight": 0.0,
    "kl_direction": "posterior_prior",
}


def write_point(
    root: Path, fid: float, sigma: float, seed: int, more: dict[str, Any] | None = None, **config: Any
) -> None:
    """A finished run with this FID and sigma; its reconstructions have half of the FID."""
    options = PLAIN | config.pop("options", {})
    values = evaluation(fid, sigma) | {"eval.reconstruction/fid": fid / 2, "eval/recall": sigma / 2} | (more or {})
    name = "-".join(str(value) for value in (*options.values(), *config.values(), seed)).replace("/", "")
    write_run(root, name, {10: values}, options=options, seed=seed, **config)


def write_floors(root: Path, fids: list[float], seeds: int = 3, **config: Any) -> None:
    """A run for each seed of each sigma_floor 0, 0.1, 0.2, ...; sigma follows it."""
    for level, fid in enumerate(fids):
        for seed in range(seeds):
            floor = {"sigma_floor": level / 10}
            write_point(root, fid + 0.1 * seed, 0.1 + level / 10 + 0.001 * seed, seed, options=floor, **config)


def frames(root: Path) -> dict[str, pd.DataFrame]:
    return analyse(collect(root)).frames


def by_response(root: Path) -> dict[str, dict[str, Any]]:
    table = frames(root)["dose_response"].to_dict(orient="records")
    return {str(row["response"]): {str(name): value for name, value in row.items()} for row in table}


class TestFamilies:
    def test_a_remedy_at_three_levels_is_a_dose_and_no_remedy_is_its_lowest(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25, 20])
        doses = frames(tmp_path)["dose"]
        assert set(doses["family"]) == {"sigma_floor"}
        assert sorted(doses["level"].unique()) == [0, 0.1, 0.2]
        assert len(doses) == 9
        first = doses.iloc[0]
        assert (first["noise_share"], first["fid"]) == (pytest.approx(0.01), 30)
        assert (first["fid_reconstruction"], first["fid_excess"]) == (15, 15)

    def test_two_levels_are_none(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25])
        assert frames(tmp_path)["dose"].empty
        assert frames(tmp_path)["dose_response"].empty

    def test_runs_that_differ_in_something_else_are_others(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25])
        write_point(tmp_path, 20, 0.3, 0, options={"sigma_floor": 0.2}, latent_dim=20)
        write_point(tmp_path, 20, 0.3, 0, options={"sigma_floor": 0.2, "sigma": "exp"})
        write_point(tmp_path, 20, 0.3, 0, options={"sigma_floor": 0.2}, batch_size=512)
        assert frames(tmp_path)["dose"].empty

    def test_a_run_without_a_remedy_is_part_of_several_doses(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25, 20], seeds=1)
        for weight in (1.0, 10.0):
            write_point(tmp_path, 20, 0.3, 0, options={"sigma_penalty": weight})
        for rate in (1e-3, 1e-2):
            write_point(tmp_path, 20, 0.3, 0, learning_rate=rate)
        doses = frames(tmp_path)["dose"]
        assert doses.groupby("family")["run_id"].nunique().to_dict() == {
            "sigma_floor": 3,
            "sigma_penalty": 3,
            "learning_rate": 3,
        }
        assert doses.groupby("run_id").size().max() == 3
        assert doses.loc[doses["dose"] == "learning_rate", "learning_rate"].isna().all(), "it is the level"

    def test_remedies_that_all_runs_share_name_the_family(self, tmp_path: Path) -> None:
        for level, weight in enumerate([0.0, 0.01, 0.1]):
            write_point(tmp_path, 30 - level, 0.2 + level / 10, 0, options={"sigma": "exp", "kl_weight": weight})
        doses = frames(tmp_path)["dose"]
        assert set(doses["family"]) == {"kl_weight (sigma=exp)"}
        assert json.loads(doses["options"].iloc[0])["sigma"] == "exp"

    def test_variants_and_data_sets_are_apart(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25, 20])
        write_floors(tmp_path, [30, 25, 20], dataset="mnist")
        write_floors(tmp_path, [30, 25, 20], variant="n_iter")
        responses = frames(tmp_path)["dose_response"]
        assert len(responses[responses["response"] == "fid"]) == 3


class TestResponses:
    def test_signs_say_what_noise_does(self, tmp_path: Path) -> None:
        write_floors(tmp_path, [30, 25, 20, 15])
        found = by_response(tmp_path)
        assert found["fid"]["correlation"] == pytest.approx(-1)
        assert found["recall"]["correlation"] == pytest.approx(1)
        assert [found["fid"][name] for name in ("levels", "seeds", "n")] == [4, 3, 12]
        assert set(found) <= set(RESPONSES)
        assert "mmd" not in found, "mechanisms were not measured"

    def test_mmd_where_mechanisms_were_measured(self, tmp_path: Path) -> None:
        for level in range(4):
            more = {"mechanism/mmd": 0.01 * level, "posterior/prior_kl": 1.0 - 0.1 * level}
            write_point(tmp_path, 30, 0.1 + level / 10, 0, more, options={"sigma_floor": level / 10})
        found = by_response(tmp_path)
        assert found["mmd"]["correlation"] == pytest.approx(1)
        assert found["prior_kl"]["correlation"] == pytest.approx(-1)

    def test_a_response_that_never_varies_has_no_correlation(self, tmp_path: Path) -> None:
        for level in range(3):
            write_point(tmp_path, 30, 0.1 + level / 10, 0, options={"sigma_floor": level / 10})
        found = by_response(tmp_path)["fid"]
        assert np.isnan([found["correlation"], found["p"]]).all()

    def test_levels_that_differ_by_chance_correlate_as_seldom_as_p_says(self) -> None:
        """Each level has a FID of its own that has nothing to do with its noise, and its three seeds agree."""
        random, found = np.random.default_rng(3), []
        for _ in range(300):
            fid = np.repeat(random.normal(20, 3, size=5), 3) + random.normal(0, 0.3, size=15)
            noise = np.repeat(np.linspace(0.1, 0.5, 5), 3) + random.normal(0, 0.01, size=15)
            place = dict.fromkeys(FAMILY, "") | {"level": np.repeat(np.arange(5.0), 3)}
            family = pd.DataFrame(place | {"noise_share": noise, "fid": fid}).reindex(columns=[*FAMILY, *DOSE_ONLY])
            found.append(build_responses(family)["p"].iloc[0])
        assert np.mean(np.array(found) < 0.05) < 0.08


class TestCorrelation:
    x, y = np.random.default_rng(0).normal(size=(2, 30)).round(1)

    def test_against_scipy_with_ties(self) -> None:
        expected: Any = stats.spearmanr(self.x, self.y)
        r, _, _, p = correlate(self.x, self.y)
        assert (r, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))

    def test_few_points_count_all_permutations(self) -> None:
        x, y = self.x[:6], self.x[:6] + self.y[:6]

        def statistic(shuffled: np.ndarray) -> float:
            found: Any = stats.spearmanr(x, shuffled)
            return found.statistic

        expected = stats.permutation_test(
            (y,), statistic, permutation_type="pairings", n_resamples=10_000, alternative="two-sided"
        )
        assert correlate(x, y)[3] == pytest.approx(expected.pvalue)
        assert correlate(np.arange(4.0), np.arange(4.0))[3] == pytest.approx(2 / 24)

    def test_its_interval_holds_the_true_correlation_as_often_as_it_says(self) -> None:
        random, rho, n, inside = np.random.default_rng(1), 0.6, 15, 0
        true = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's, of two Gaussians
        for _ in range(2000):
            x, noise = random.normal(size=(2, n))
            _, low, high, _ = correlate(x, rho * x + np.sqrt(1 - rho**2) * noise)
            inside += low <= true <= high
        assert inside / 2000 == pytest.approx(0.95, abs=0.02)

    def test_its_p_is_below_five_percent_as_seldom_as_it_says(self) -> None:
        random = np.random.default_rng(2)
        for n in (6, 9, 15):
            p = [correlate(*random.normal(size=(2, n)))[3] for _ in range(1500)]
            assert np.mean(np.array(p) < 0.05) < 0.065

    def test_a_perfect_order_of_few_points_is_not_certain(self) -> None:
        r, low, high, _ = correlate(np.arange(5.0), np.arange(5.0))
        assert (r, high) == (pytest.approx(1), pytest.approx(1))
        assert low < 0
        assert correlate(np.arange(50.0), -np.arange(50.0))[2] < -0.99

    def test_two_points_have_none(self) -> None:
        assert np.isnan(correlate(np.arange(2.0), np.arange(2.0))).all()


def test_the_report_shows_and_draws_them(tmp_path: Path) -> None:
    from results.show.report import write_report  # noqa: PLC0415
    from results.show.write import write_collection, writing  # noqa: PLC0415

    write_floors(tmp_path / "runs", [30, 25, 20, 15])
    analysis = analyse(collect(tmp_path / "runs"))
    (drawing,) = draw_dose(analysis.frames["dose"])
    titles = [axis.get_ylabel() for axis in drawing.figure.axes if axis.get_visible()]
    assert titles == ["FID", "FID of reconstructions", "FID beyond reconstructions'", "recall"]
    with writing(tmp_path / "out", {}) as output:
        write_collection(analysis, output)
        write_report(analysis, output)
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="dose-response"' in page
    assert "sigma_floor" in page
    assert (tmp_path / "out" / "figures" / "dose-aae-digits-32px.svg").is_file()
    assert "sigma_floor" in (tmp_path / "out" / "dose.csv").read_text()
    assert (tmp_path / "out" / "dose_response.csv").is_file()
