"""Figures with matplotlib: every seed shown, told apart by marker and line as well as by colour."""

from collections.abc import Iterator, Mapping

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
from results.show.figures.style import Drawing, save_figure

__all__ = ["Drawing", "draw_all", "draw_fid", "draw_samples", "draw_sigma", "save_figure"]


def draw_all(collection: Collection, frames: Mapping[str, pd.DataFrame] | None = None) -> Iterator[Drawing]:
    """The paper's figures and ours, where there are data, one at a time: save one before asking for the next.

    Args: frames: an analysis' tables: odd runs are marked; the forest plot, the curves of searches and the doses drawn.
    """
    odd: frozenset[str] = frozenset()
    if frames is not None:
        problems = frames["problems"]
        odd = frozenset(problems.loc[problems["state"] == "odd", "run_id"])
        yield from draw_forest(frames["comparisons"], frames["across_datasets"])
        yield from draw_budgets(frames["budgets"])
        yield from draw_dose(frames["dose"])
    yield from draw_fid(collection, odd)
    yield from draw_sigma(collection, odd)
    for draw in (
        draw_seeds,
        draw_samples,
        draw_pair,
        draw_posterior,
        draw_fid_against_noise_share,
        draw_losses,
        draw_option_curves,
    ):
        yield from draw(collection)
