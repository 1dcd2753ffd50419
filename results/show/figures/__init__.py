"""Figures with matplotlib: every seed shown, told apart by marker and line as well as by colour."""

from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from results.read.collect import Collection
from results.show.figures.budgets import draw_budgets
from results.show.figures.curves import draw_fid, draw_losses, draw_sigma
from results.show.figures.distributions import draw_fid_against_noise_share, draw_posterior
from results.show.figures.dose import draw_dose
from results.show.figures.forest import draw_forest
from results.show.figures.options import draw_option_curves
from results.show.figures.samples import draw_pair, draw_samples
from results.show.figures.seeds import draw_seeds
from results.show.figures.style import STYLE, Drawing, encode_picture, save_figure

__all__ = [
    "FIGURES",
    "STYLE",
    "Drawing",
    "draw_all",
    "draw_fid",
    "draw_samples",
    "draw_sigma",
    "encode_picture",
    "save_figure",
]

Frames = Mapping[str, pd.DataFrame]

# The paper's figures and ours by name, in the report's order: of a collection, and of an analysis' tables.
FIGURES: dict[str, Callable[[Collection, Frames], Iterator[Drawing]]] = {
    "forest": lambda collection, frames: draw_forest(frames["comparisons"], frames["across_datasets"]),
    "budgets": lambda collection, frames: draw_budgets(frames["budgets"]),
    "dose": lambda collection, frames: draw_dose(frames["dose"]),
    "fid": lambda collection, frames: draw_fid(collection, _find_odd(frames)),
    "sigma": lambda collection, frames: draw_sigma(collection, _find_odd(frames)),
    "seeds": lambda collection, frames: draw_seeds(collection),
    "samples": lambda collection, frames: draw_samples(collection),
    "pair": lambda collection, frames: draw_pair(collection),
    "posterior": lambda collection, frames: draw_posterior(collection),
    "noise_share": lambda collection, frames: draw_fid_against_noise_share(collection),
    "losses": lambda collection, frames: draw_losses(collection),
    "options": lambda collection, frames: draw_option_curves(collection),
}


def draw_all(collection: Collection, frames: Frames) -> Iterator[Drawing]:
    """FIGURES, where there are data, one at a time: save one before asking for the next.

    Args: frames: an analysis' tables.
    """
    for draw in FIGURES.values():
        yield from draw(collection, frames)


def _find_odd(frames: Frames) -> frozenset[str]:
    """Runs far off their cell's others, which are marked."""
    problems = frames["problems"]
    return frozenset(problems.loc[problems["state"] == "odd", "run_id"])
