"""What a number of seeds will find, from the spread of runs that exist."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from harness.measures import name_fid
from results.compute.cells import build_cells, lay_out
from results.compute.moderated import FEWEST
from results.compute.statistics import ALPHA, POWER, compute_detectable
from results.compute.summary import build_empty, reported_rows
from results.read.collect import collect
from results.read.schema import RUNS

MEASURE = "fid"


def find_detectable(reported: pd.DataFrame, n: int, variants: int) -> tuple[float, float, int] | None:
    """The difference of FID that n seeds a cell find with a chance of 0.8, as a ratio above 1.

    Args: reported: rows of runs that exist. variants: compared with the AAE in a setting, which share the 5 %.
    Returns: the ratio; the spread over seeds, relative; the cells that it is from. None where there are too few.
    """
    prior = reported[reported["sampler"] == "prior"]
    if prior.empty:
        return None
    cells = build_cells(lay_out(prior), MEASURE)
    known = (cells.lenders >= FEWEST) & (cells.common > 0)
    if not known.any() or cells.scale != "log" or n < 2:
        return None
    pool = int(np.argmax(np.where(known, cells.lenders, 0)))
    spread, worth = cells.common[pool], cells.worth[known].max()
    numbers = (2 * spread, worth, float(n), ALPHA / max(variants, 1))
    shift = compute_detectable(*(np.asarray(number) for number in numbers))
    return float(np.exp(shift)), float(np.sqrt(spread)), int(cells.lenders[pool])


def describe_planned(runs: Path, cells: Iterable[tuple[str, str, int]]) -> list[str]:
    """What the seeds of a sweep will find, from the finished runs in a folder; see describe_seeds.

    Args: cells: data set, what is trained, seed of each planned run. A data set's seeds are those that each of its
        cells has at least.
    """
    seeds: dict[str, dict[str, set[int]]] = {}
    for dataset, trained, seed in cells:
        seeds.setdefault(dataset, {}).setdefault(trained, set()).add(seed)
    counts = {dataset: min(len(own) for own in trained.values()) for dataset, trained in seeds.items()}
    variants = max((len(trained) for trained in seeds.values()), default=1) - 1
    if variants < 1:
        return []  # nothing is compared
    reported = reported_rows(collect(runs).runs) if runs.is_dir() else build_empty(RUNS)
    return describe_seeds(reported, counts, variants)


def describe_seeds(reported: pd.DataFrame, seeds: Mapping[str, int], variants: int) -> list[str]:
    """What `aaebench sweep plan` says of the planned seeds, a line for each number of them.

    Args: seeds: of each data set, the seeds that every cell will have.
    """
    lines, fid = [], name_fid(reported["extractor"])
    for n in sorted(set(seeds.values())):
        names = ", ".join(name for name, own in seeds.items() if own == n)
        if n < 2:
            lines.append(f"{names}: one seed a cell says nothing about differences; plan two or more")
            continue
        found = find_detectable(reported, n, variants)
        if found is None:
            lines.append(
                f"{names}: what {n} seeds will find is not known before {FEWEST} cells of two seeds have been run"
            )
            continue
        ratio, spread, cells = found
        lines.append(
            f"{names}: {n} seeds find an {fid} that is {ratio - 1:.0%} above the AAE's, or {1 - 1 / ratio:.0%} below, "
            f"with a chance of {POWER:.0%} (seeds spread by {spread:.1%} in {cells} cells that exist)"
        )
    return lines
