"""Campaigns drawn from known truths: log FIDs of D data sets, k variants (the first is the AAE) and n seeds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

VARIANTS = 6
# FID over the AAE's as the real runs on Fashion-MNIST show it (PAPER.md: 6.25, 6.6, 7.8, 9.6, 10.5, 19.7).
EFFECTS = np.log([1.0, 1.06, 1.24, 1.53, 1.67, 3.1])
Spread = Literal["equal", "as seen", "unequal"]


@dataclass(frozen=True)
class Scenario:
    """`spread`: over seeds, relative: `equal` in all cells (`deviation`), `as seen` (3.5 % on average, log-normal with
    0.5), or `unequal` (1 to 10 %, uniform in the logarithm). `tails`: normal, t with 5 degrees, or an outlier of ten
    standard deviations in a hundred. `correlation`: of runs with the same seed.
    """

    name: str
    spread: Spread = "as seen"
    deviation: float = 0.035
    tails: Literal["normal", "t5", "outliers"] = "normal"
    correlation: float = 0.0

    def draw(
        self, random: np.random.Generator, times: int, datasets: int, seeds: int, effects: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns: (times, datasets, variants, seeds)."""
        effects = np.zeros(VARIANTS) if effects is None else effects
        shape = (times, datasets, len(effects), seeds)
        noise = random.standard_t(5, shape) / np.sqrt(5 / 3) if self.tails == "t5" else random.normal(size=shape)
        if self.tails == "outliers":
            noise = np.where(random.uniform(size=shape) < 0.01, noise + 10 * np.sign(noise), noise)
        if self.correlation:
            common = random.normal(size=(times, datasets, 1, seeds))
            noise = np.sqrt(1 - self.correlation) * noise + np.sqrt(self.correlation) * common
        return effects[:, None] + self.draw_deviations(random, shape[:-1])[..., None] * noise

    def draw_deviations(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if self.spread == "unequal":
            return np.exp(random.uniform(np.log(0.01), np.log(0.1), shape))
        if self.spread == "as seen":
            return 0.035 * np.exp(random.normal(-0.125, 0.5, shape))
        return np.full(shape, self.deviation)


SCENARIOS = [
    Scenario("1 %, equal", "equal", 0.01),
    Scenario("10 %, equal", "equal", 0.1),
    Scenario("as seen"),
    Scenario("1 to 10 %, unequal", "unequal"),
    Scenario("equal, t5", "equal", tails="t5"),
    Scenario("as seen, t5", tails="t5"),
    Scenario("unequal, t5", "unequal", tails="t5"),
    Scenario("as seen, pairs 0.5", correlation=0.5),
    Scenario("unequal, pairs 0.5", "unequal", correlation=0.5),
    Scenario("as seen, outliers", tails="outliers"),
]
