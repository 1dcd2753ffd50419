"""What is measured of a method: errors, power, coverage; of claims and of looking again and again, false verdicts."""

from collections.abc import Sequence

import numpy as np

from results.compute.across_datasets import combine
from results.compute.claims import CLAIMS
from results.compute.findings import COLLAPSED, Evidence
from results.compute.looks import compute_level
from results.compute.moderated import compare_unpaired, compare_with_first, estimate_prior
from results.compute.statistics import (
    ALPHA,
    MARGIN,
    adjust_holm,
    compute_p_above,
    compute_p_equivalent,
    compute_seeds_needed,
)
from tests.calibration.methods import Method, moderated
from tests.calibration.scenarios import EFFECTS, Scenario

RULES = {claim.name: claim.combine for claim in CLAIMS}


def measure_errors(
    method: Method, scenario: Scenario, datasets: int, seeds: int, times: int, random: np.random.Generator
) -> tuple[float, float]:
    """The chance of any false finding in a setting where nothing differs, and the intervals' coverage (or NaN)."""
    found, ends = method(scenario.draw(random, times, datasets, seeds))
    coverage = np.nan if ends is None else ((ends[0] < 0) & (ends[1] > 0)).mean()
    return float(found.any(axis=-1).mean()), float(coverage)


def measure_power(
    method: Method, scenario: Scenario, datasets: int, seeds: int, times: int, random: np.random.Generator
) -> np.ndarray:
    """The chance to find each of EFFECTS."""
    return method(scenario.draw(random, times, datasets, seeds, EFFECTS))[0].mean(axis=(0, 1))


def measure_false_equivalence(scenario: Scenario, seeds: int, times: int, random: np.random.Generator) -> float:
    """The chance of any false "equivalent" in a setting whose variants all lie at the margin."""
    effects = np.log1p(MARGIN) * np.array([0, 1, 1, 1, 1, 1.0])
    test = compare_with_first(scenario.draw(random, times, 1, seeds, effects))
    p = compute_p_equivalent(test.difference, test.error, test.df, np.log1p(MARGIN))
    return float((adjust_holm(p) < ALPHA).any(axis=-1).mean())


def measure_best(
    scenario: Scenario, datasets: int, seeds: int, times: int, random: np.random.Generator, effects: np.ndarray
) -> tuple[float, float]:
    """The chance that the bold set holds the true best, and its mean size (Hsu's rule, as find_best applies it)."""
    values = scenario.draw(random, times, datasets, seeds, effects)
    candidates = np.stack([_may_be_best(values, own) for own in range(len(effects))], axis=-1)
    return float(candidates[..., int(np.argmin(effects))].mean()), float(candidates.sum(axis=-1).mean())


def _may_be_best(values: np.ndarray, own: int) -> np.ndarray:
    order = [own, *(other for other in range(values.shape[-2]) if other != own)]
    test = compare_with_first(values[..., order, :])
    p = compute_p_above(-test.difference, test.error, test.df)  # that a rival is lower
    return p.min(axis=-1) * p.shape[-1] >= ALPHA


def measure_across(
    scenario: Scenario, datasets: int, seeds: int, between: float, times: int, random: np.random.Generator
) -> float:
    """Coverage of the interval of the mean effect over data sets, whose true effects spread by `between`."""
    values = scenario.draw(random, times, datasets, seeds)
    true = random.normal(0, between, (times, datasets, 1))
    values[:, :, 1:2] += true[..., None]
    test = compare_with_first(values)
    held = 0
    for effect, error in zip(test.difference[..., 0], test.error[..., 0], strict=True):
        found = combine(effect, error)
        held += found["effect_low"] < 0 < found["effect_high"]
    return held / times


def evidence(p_for: np.ndarray, p_against: np.ndarray, variants: Sequence[str]) -> Evidence:
    return [
        {"variant": variant, "finding": "open", "p_for": float(a), "p_against": float(b)}
        for a, b, variant in zip(p_for, p_against, variants, strict=True)
    ]


def judge_differences(
    claim: str,
    effects: np.ndarray,
    picked: Sequence[tuple[int, int]],
    better: str,
    scenario: Scenario,
    seeds: int,
    times: int,
    random: np.random.Generator,
) -> dict[str, float]:
    """How often a claim of differences from the AAE is supported and refuted.

    Args: effects (D, k): the truth. picked: data set and variant of each piece of evidence. better: `below` or `above`,
        what counts for the claim.
    """
    datasets = len(effects)
    values = scenario.draw(random, times, datasets, seeds, np.zeros(effects.shape[1])) + effects[None, :, :, None]
    test = compare_with_first(values, cautious=True)
    above = compute_p_above(test.difference, test.error, test.df)
    verdicts = []
    for p in above:
        own = np.array([p[dataset, variant - 1] for dataset, variant in picked])
        rows = evidence(*((1 - own, own) if better == "below" else (own, 1 - own)), [str(v) for _, v in picked])
        verdicts.append(RULES[claim](rows).verdict)
    return count(verdicts)


def judge_most_help(
    effects: np.ndarray, scenario: Scenario, seeds: int, times: int, random: np.random.Generator, helper: int = 2
) -> dict[str, float]:
    """C4 with its rivals. Args: effects (2, k); helper: n_iter's place."""
    values = scenario.draw(random, times, 2, seeds, np.zeros(effects.shape[1])) + effects[None, :, :, None]
    test = compare_with_first(values, cautious=True)
    own = compute_p_above(test.difference, test.error, test.df)[..., helper - 1]
    order = [helper, *(other for other in range(1, effects.shape[1]) if other != helper)]
    rivals = compare_with_first(values[..., [*order, 0], :], cautious=True)
    rivals = type(rivals)(*(part[..., :-1] for part in (rivals.difference, rivals.error, rivals.df)))
    not_below = compute_p_above(rivals.difference, rivals.error, rivals.df, np.log1p(-MARGIN))
    below = 1 - compute_p_above(rivals.difference, rivals.error, rivals.df)
    verdicts = []
    for mine, inside, under in zip(own, not_below, below, strict=True):
        p_for, p_against = np.concatenate([1 - mine, inside.ravel()]), np.concatenate([mine, under.ravel()])
        verdicts.append(RULES["C4"](evidence(p_for, p_against, [str(n) for n in range(len(p_for))])).verdict)
    return count(verdicts)


def judge_levels(
    claim: str, true: np.ndarray, bound: float, deviation: float, seeds: int, times: int, random: np.random.Generator
) -> dict[str, float]:
    """How often C1 (noise shares on the logit scale) or C2 (paces) is supported and refuted.

    Args: true (C,): the cells' values on their scale. bound: that below which is for the claim.
    """
    spread = deviation * np.exp(random.normal(-0.125, 0.5, (times, len(true), 1)))
    values = true[:, None] + spread * random.normal(size=(times, len(true), seeds))
    own, df = values.var(axis=-1, ddof=1), np.full(len(true), seeds - 1.0)
    variance, squeezed_df = estimate_prior(own, df).squeeze(own, df, cautious=True)
    above = compute_p_above(values.mean(axis=-1), np.sqrt(variance / seeds), squeezed_df, bound)
    names = [str(number) for number in range(len(true))]
    return count([RULES[claim](evidence(1 - p, p, names)).verdict for p in above])


def count(verdicts: Sequence[str]) -> dict[str, float]:
    return {name: verdicts.count(name) / len(verdicts) for name in ("supported", "refuted")}


def collapse_bound() -> float:
    return float(np.log(COLLAPSED / (1 - COLLAPSED)))


def look_repeatedly(
    scenario: Scenario, effects: np.ndarray, at_most: int, times: int, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A setting that is extended until it is decided, as `aaebench sweep extend` does it.

    Returns: (times, k - 1), whether each difference was found at some look; the mean number of a collection's runs.
    """
    values = scenario.draw(random, times, 1, at_most, effects)
    found, runs = np.zeros((times, len(effects) - 1)), np.zeros(times)
    for number in range(times):
        own = np.full(len(effects), 2)
        decided, past = np.zeros(len(effects) - 1, bool), []
        while True:
            n = int(own[0])
            level = compute_level(n, past, at_most)
            past.append((n, level))
            test, prior_df = _judge_unbalanced(values[number, 0], own)
            inside = adjust_holm(compute_p_equivalent(test.difference, test.error, test.df, np.log1p(MARGIN)))
            p = adjust_holm(test.p)
            found[number] = np.where(~decided & (p < level), 1, found[number])
            decided |= (p < level) | (inside < level)
            if decided.all() or n >= at_most:
                break
            alpha = np.asarray(level / len(p))
            variance = test.error**2 * n
            needed = compute_seeds_needed(np.abs(test.difference), variance, prior_df, np.asarray(1.0), alpha)
            room = np.maximum(np.log1p(MARGIN) - np.abs(test.difference), 0)
            needed = np.fmin(needed, compute_seeds_needed(room, variance, prior_df, np.asarray(1.0), 2 * alpha))
            target = int(min(max(np.nanmax(needed[~decided]), n + 1), at_most))
            own[0] = target
            own[1:][~decided] = target
        runs[number] = own.sum()
    return found, float(runs.mean())


def _judge_unbalanced(values: np.ndarray, n: np.ndarray):
    means = np.array([row[:count].mean() for row, count in zip(values, n, strict=True)])
    own = np.array([row[:count].var(ddof=1) for row, count in zip(values, n, strict=True)])
    prior = estimate_prior(own, n - 1.0)
    variance, df = prior.squeeze(own, n - 1.0)
    first = np.zeros(len(n) - 1, int)
    others = np.arange(1, len(n))
    test = compare_unpaired(
        means[others] - means[first],
        (variance[others], variance[first]),
        (n[others], n[first]),
        (df[others], df[first]),
        np.ones(len(others), bool),
    )
    return test, prior.df[others]


def measure_fixed(
    scenario: Scenario, effects: np.ndarray, seeds: int, times: int, random: np.random.Generator
) -> np.ndarray:
    """The chance to find each difference with a fixed number of seeds."""
    return moderated(scenario.draw(random, times, 1, seeds, effects))[0].mean(axis=(0, 1))
