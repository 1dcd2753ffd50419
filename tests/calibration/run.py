"""`make calibrate`: the simulation in full, as docs/calibration.md and docs/calibration.png; in minutes."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from tests.calibration.measure import (
    collapse_bound,
    judge_differences,
    judge_levels,
    judge_most_help,
    look_repeatedly,
    measure_across,
    measure_best,
    measure_errors,
    measure_false_equivalence,
    measure_fixed,
    measure_power,
)
from tests.calibration.methods import METHODS, SLOW
from tests.calibration.scenarios import EFFECTS, SCENARIOS, Scenario

DOCS = Path(__file__).parents[2] / "docs"
TIMES = 12_000  # collections of one data set; fewer of more
DATASETS, SEEDS = (1, 2, 3, 6), (2, 3, 5, 10)
SEEN = Scenario("as seen")
AT_MOST = 8
Table = list[list[str]]
Curves = dict[str, list[tuple[float, float]]]
Judge = Callable[[int, int, np.random.Generator], dict[str, float]]


def main() -> None:
    start = time.time()
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        jobs = {part: pool.submit(part) for part in (errors, equivalence, best, across, claims)}
        drawn = [pool.submit(part) for part in (methods, looks)]
        found = {part: job.result() for part, job in jobs.items()}
        (compared, curves), (looked, figure) = (job.result() for job in drawn)
    sections = [
        ("Ours: false findings and coverage", ERRORS, found[errors]),
        ("Beside other tests", METHODS_TEXT, compared),
        ("False equivalence", EQUIVALENCE, found[equivalence]),
        ("The bold set", BEST, found[best]),
        ("Over data sets", ACROSS, found[across]),
        ("The claims", CLAIMS_TEXT, found[claims]),
        ("Looking until it is decided", LOOKS_TEXT, looked),
    ]
    text = HEAD.format(times=TIMES, minutes=(time.time() - start) / 60)
    text += "\n".join(f"## {title}\n\n{says.strip()}\n\n{render(table)}\n" for title, says, table in sections)
    (DOCS / "calibration.md").write_text(text)
    draw(curves, figure)
    print(DOCS / "calibration.md", DOCS / "calibration.png", sep="\n")


HEAD = """# Calibration: what the verdicts promise, and what they hold

Campaigns are drawn from known truths and judged by the code that judges real ones (`results/compute/moderated.py`): log
FIDs of six variants, the first of which is the AAE, on one to six data sets. `make calibrate` writes this page and the
figure ({times} collections of one data set a cell of a table, fewer of several; {minutes:.1f} minutes on two cores).

![Errors and power by number of seeds, and runs saved by looking](calibration.png)

Spread over seeds: `as seen` is 3.5 % on average and differs by cell (log-normal, 0.5), as in real runs; `equal` is the
same in all cells; `unequal` is 1 to 10 %, uniform in the logarithm. Tails: normal, Student's t with 5 degrees (t5), or
one seed in a hundred ten standard deviations off (outliers). Pairs 0.5: runs of one seed are correlated.

"""
ERRORS = """
The chance of any false finding in a setting where nothing differs (Holm at 5 %), and the share of 95 % intervals that
hold the truth. Aim: at most 0.06 everywhere but under outliers; 0.93 to 0.97.
"""
METHODS_TEXT = """
One data set. False: the chance of any false finding where nothing differs. Found: the chance to find an FID that is
1.06, 1.24, 1.53, 1.67 and 3.1 times the AAE's. Spread as seen. Aim: at least 0.75 for 1.24 with two seeds.
"""
EQUIVALENCE = """
The chance of any false "equivalent" in a setting whose variants all lie exactly at the margin of 10 %.
"""
BEST = """
The chance that the set marked as best holds the true best (aim: 0.95), and the mean number of its six candidates, where
all are equal and where they differ as above.
"""
ACROSS = """
Coverage of Hartung and Knapp's 95 % interval of the mean effect over data sets (three seeds), whose true effects spread
by 0 and by 10 %.
"""
CLAIMS_TEXT = """
The chance of each verdict at the border of each claim's truth, where a false one is likeliest (at most 0.05 by
construction), and in C4's true case: n_iter lower by 20 % on both data sets (aim: supported in 0.8 with three seeds).
Spread as seen; noise shares and paces spread by 0.2 on their scale.
"""
LOOKS_TEXT = """
One data set, at most 8 seeds: `aaebench sweep extend --until-decided` from two seeds on, beside a fixed number of seeds
in every cell. False: the chance of any false finding over all looks where nothing differs. Runs: the mean number of a
setting of six cells.
"""


def render(table: Table) -> str:
    head, *rows = table
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def errors() -> Table:
    random = np.random.default_rng(1)
    rows = [["data sets", "seeds", *(scenario.name for scenario in SCENARIOS)]]
    for datasets in DATASETS:
        for seeds in SEEDS:
            row = [str(datasets), str(seeds)]
            for scenario in SCENARIOS:
                method = METHODS["moderated (ours)"]
                false, coverage = measure_errors(method, scenario, datasets, seeds, TIMES // datasets, random)
                row.append(f"{false:.3f}, {coverage:.3f}")
            rows.append(row)
    return rows


def methods() -> tuple[Table, Curves]:
    random = np.random.default_rng(2)
    rows, curves = [["test", "seeds", "false: as seen", "unequal", "found"]], {}
    for name, method in METHODS.items():
        curves[name] = []
        for seeds in SEEDS[:3]:
            times = SLOW.get(name, TIMES)
            false = [measure_errors(method, scenario, 1, seeds, times, random)[0] for scenario in SCENARIOS[2:4]]
            found = measure_power(method, SEEN, 1, seeds, times // 2, random)
            rows.append([name, str(seeds), *(f"{value:.3f}" for value in false), " ".join(f"{v:.2f}" for v in found)])
            curves[name].append((false[0], float(found[1])))
    return rows, curves


def equivalence() -> Table:
    random = np.random.default_rng(3)
    rows = [["spread", *(f"{seeds} seeds" for seeds in SEEDS)]]
    for scenario in (SCENARIOS[0], SCENARIOS[2], SCENARIOS[3]):
        values = [measure_false_equivalence(scenario, seeds, TIMES, random) for seeds in SEEDS]
        rows.append([scenario.name, *(f"{value:.3f}" for value in values)])
    return rows


def best() -> Table:
    random = np.random.default_rng(4)
    rows = [["spread", "seeds", "all equal: holds the best", "size", "they differ: holds the best", "size"]]
    for scenario in SCENARIOS[2:4]:
        for seeds in SEEDS[:3]:
            pairs = [measure_best(scenario, 1, seeds, TIMES, random, effects) for effects in (0 * EFFECTS, EFFECTS)]
            rows.append([scenario.name, str(seeds), *(f"{number:.3f}" for pair in pairs for number in pair)])
    return rows


def across() -> Table:
    random = np.random.default_rng(5)
    rows = [["data sets", "effects alike", "effects spread by 10 %"]]
    for datasets in (2, 3, 6):
        values = [measure_across(SEEN, datasets, 3, between, 3000, random) for between in (0.0, 0.1)]
        rows.append([str(datasets), *(f"{value:.3f}" for value in values)])
    return rows


def claims() -> Table:
    random = np.random.default_rng(6)
    rows = [["claim", "truth", *(f"{seeds} seeds: supported, refuted" for seeds in SEEDS[:3])]]
    for claim, truth, judge in borders():
        found = [judge(seeds, TIMES // 3, random) for seeds in SEEDS[:3]]
        rows.append([claim, truth, *(f"{value['supported']:.3f}, {value['refuted']:.3f}" for value in found)])
    return rows


def borders() -> Iterator[tuple[str, str, Judge]]:
    """Claim, truth in words, and a function of (seeds, times, random) that judges it."""
    bound = collapse_bound()
    far = np.full(6, bound - 9)
    far[0] = bound

    def levels(claim, true, at):
        return lambda seeds, times, random: judge_levels(claim, true, at, 0.2, seeds, times, random)

    def differences(claim, effects, picked, better):
        return lambda seeds, times, random: judge_differences(
            claim, effects, picked, better, SEEN, seeds, times, random
        )

    def most_help(effects):
        return lambda seeds, times, random: judge_most_help(effects, SEEN, seeds, times, random)

    def exceptions(effects):
        return differences(
            "C7", effects, [(dataset, variant) for variant in range(1, 6) for dataset in range(3)], "above"
        )

    yield "C1", "one of six data sets at 0.05, the others below: border of support", levels("C1", far, bound)
    yield "C1", "all six at 0.05: border of refutation", levels("C1", np.full(6, bound), bound)
    half = np.array([0.25, 0.25, 0.25, -9, -9, -9])
    yield "C2", "three of six cells far below 0.25, three at it: border of support", levels("C2", half, 0.25)
    yield "C2", "three far above, three at it: border of refutation", levels("C2", 0.5 - half, 0.25)
    yield "C3, C5", "no difference", differences("C3", np.zeros((1, 6)), [(0, 3)], "below")
    helps = np.zeros((2, 6))
    helps[:, 2] = np.log(0.8)
    one, rival, all_alike = helps.copy(), helps.copy(), helps.copy()
    one[0, 2] = 0
    rival[0, 4] = helps[0, 2] + np.log(0.9)
    all_alike[:, 1:] = np.log(0.8)
    yield "C4", "true: n_iter lower by 20 % on both", most_help(helps)
    yield "C4", "n_iter as the AAE on one: border of support", most_help(one)
    yield "C4", "a rival lower than n_iter by 10 % on one: border of support", most_help(rival)
    yield "C4", "all five alike, lower than the AAE by 20 %: border of refutation", most_help(all_alike)
    harm = np.zeros((3, 6))
    harm[:, 4:] = 2.0
    harm[0, 4:] = 0
    picked = [(dataset, variant) for dataset in range(3) for variant in (4, 5)]
    yield "C6", "four of six worse, two alike: border of support", differences("C6", harm, picked, "above")
    less = -harm
    less[1, 4:] = less[2, 4:] = 0
    less[0, 4] = -2.0
    yield "C6", "one of six better, the others alike: border of refutation", differences("C6", less, picked, "above")
    mixed = np.zeros((3, 6))
    mixed[0, 1:5] = 2.0
    yield (
        "C7",
        "four variants worse somewhere, one nowhere: border of support",
        exceptions(mixed),
    )
    better = np.zeros((3, 6))
    better[1:, 1:] = -2.0
    yield (
        "C7",
        "all better on two of three, alike on one: border of refutation",
        exceptions(better),
    )


def looks() -> tuple[Table, Curves]:
    random = np.random.default_rng(7)
    times = 1500
    null, null_runs = look_repeatedly(SEEN, 0 * EFFECTS, AT_MOST, times, random)
    found, runs = look_repeatedly(SEEN, EFFECTS, AT_MOST, times, random)
    rows = [["design", "false", "found", "runs where they differ", "runs where nothing does"]]
    shares = found.mean(axis=0)
    rows.append(
        [
            "until decided",
            f"{null.any(axis=1).mean():.3f}",
            " ".join(f"{value:.2f}" for value in shares),
            f"{runs:.1f}",
            f"{null_runs:.1f}",
        ]
    )
    fixed = []
    for seeds in range(2, AT_MOST + 1):
        power = measure_fixed(SEEN, EFFECTS, seeds, TIMES, random)
        false = measure_errors(METHODS["moderated (ours)"], SEEN, 1, seeds, TIMES, random)[0]
        n = f"{6 * seeds}"
        rows.append([f"{seeds} seeds each", f"{false:.3f}", " ".join(f"{value:.2f}" for value in power), n, n])
        fixed.append((6.0 * seeds, float(power.mean())))
    return rows, {"fixed": fixed, "until decided": [(runs, float(shares.mean()))]}


def draw(curves: Curves, figure: Curves) -> None:
    picture, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for (name, points), marker in zip(curves.items(), "osD^v", strict=True):
        for axis, values in zip(axes[:2], zip(*points, strict=True), strict=True):
            axis.plot(SEEDS[:3], values, marker=marker, label=name)
    axes[0].axhline(0.05, color="0.5", linewidth=0.8)
    axes[0].set(title="any false finding, nothing differs", xlabel="seeds", ylabel="chance", yscale="log")
    axes[1].set(title="an FID 24 % higher is found", xlabel="seeds", ylim=(0, 1.03))
    axes[2].plot(*zip(*figure["fixed"], strict=True), marker="s", color="0.4", label="fixed seeds (2 to 8)")
    axes[2].plot(
        *zip(*figure["until decided"], strict=True), marker="*", markersize=13, label="until decided, at most 8"
    )
    axes[2].set(title="mean share of differences found", xlabel="runs of a setting of six cells")
    axes[0].legend(fontsize=7)
    axes[2].legend(fontsize=7)
    for axis in axes[:2]:
        axis.set_xticks(SEEDS[:3])
    picture.savefig(DOCS / "calibration.png", dpi=110)
    plt.close(picture)


if __name__ == "__main__":
    main()
