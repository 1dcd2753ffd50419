"""A seed far off the others of its cell is named and kept; and where the spread of seeds comes from."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.compute.analysis import analyse
from results.compute.spread import build_spread
from results.read.collect import collect
from tests.results.runs import write_campaign

SIX = {
    "aae": [30.0, 31.0, 29.3],
    "n_iter": [26.1, 25.4, 25.9],
    "latent_mapping": [33.0, 32.1, 33.4],
    "kld_loss": [40.1, 38.9, 39.2],
    "feature": [44.8, 46.0, 45.1],
}


class TestOddRuns:
    def test_a_training_that_went_wrong_is_named_with_its_effect_and_kept(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, SIX | {"n_iter": [26.1, 25.4, 25.9, 70.0]})
        analysis = analyse(collect(tmp_path))
        (odd,) = analysis.frames["problems"].to_dict(orient="records")
        assert odd["state"] == "odd"
        assert odd["run_id"] == "n_iter-digits-32-seed3"
        assert "standard deviations from the mean of the other 3 seeds, 25.8" in odd["reason"]
        assert "without it n_iter would be better instead of undecided" in odd["reason"]
        summary = analysis.summary.set_index("variant")
        assert summary.loc["n_iter", "n"] == 4
        assert summary.loc["n_iter", "fid_mean"] == pytest.approx((26.1 + 25.4 + 25.9 + 70) / 4)

    def test_seeds_that_spread_as_others_do_are_not_odd(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, SIX)
        assert analyse(collect(tmp_path)).frames["problems"].empty

    def test_of_two_seeds_far_apart_neither_is_known_to_be_the_odd_one(self, tmp_path: Path) -> None:
        write_campaign(tmp_path, SIX | {"n_iter": [26.1, 70.0]})
        assert analyse(collect(tmp_path)).frames["problems"].empty


class TestSpread:
    def draw(self) -> pd.DataFrame:
        """40 runs on one process and on two, evaluated with four sampling seeds: log FIDs of known components."""
        random = np.random.default_rng(0)
        rows = []
        for run in range(40):
            processes = run % 2 + 1
            training = random.normal(0, 0.1) + 0.3 * (processes - 1)
            for seed in range(4):
                fid = 10 * np.exp(training + random.normal(0, 0.02))
                rows.append({"run_id": f"r{run}", "num_processes": processes, "sampling_seed": seed, "fid": fid})
        return pd.DataFrame(rows)

    def measure(self, tmp_path: Path) -> pd.DataFrame:
        write_campaign(tmp_path, {"aae": [1.0]})
        one = collect(tmp_path).runs
        one = one[one["epoch"] == one["epoch"].max()].iloc[[0]]
        drawn = self.draw()
        runs = pd.concat([one] * len(drawn), ignore_index=True).assign(**{name: drawn[name] for name in drawn})
        return build_spread(runs).set_index("source")

    def test_components_are_found_and_what_is_missing_has_a_design(self, tmp_path: Path) -> None:
        spread = self.measure(tmp_path)
        assert spread.loc["sampling of codes", "deviation"] == pytest.approx(0.02, rel=0.2)
        assert spread.loc["number of processes", "deviation"] == pytest.approx(0.3 / np.sqrt(2), rel=0.3)
        assert spread.loc["training seed", "groups"] == 1
        assert np.isnan(spread["deviation"].to_numpy(float)[spread.index == "precision"]).all()
        assert "mixed_precision" in str(spread.loc["precision", "design"])
        assert spread.loc["sampling of codes", "design"] == ""
