"""Figures with matplotlib: every seed shown, told apart by marker and line as well as by colour."""

from collections.abc import Iterator

from results.read.collect import Collection
from results.show.figures.curves import draw_fid, draw_losses, draw_sigma
from results.show.figures.distributions import draw_fid_against_noise_share, draw_posterior
from results.show.figures.options import draw_option_curves
from results.show.figures.samples import draw_pair, draw_samples
from results.show.figures.style import Drawing, save_figure

__all__ = ["Drawing", "draw_all", "draw_fid", "draw_samples", "draw_sigma", "save_figure"]


def draw_all(collection: Collection) -> Iterator[Drawing]:
    """The paper's figures and ours, where there are data, one at a time: save one before asking for the next."""
    for draw in (
        draw_fid,
        draw_samples,
        draw_pair,
        draw_sigma,
        draw_posterior,
        draw_fid_against_noise_share,
        draw_losses,
        draw_option_curves,
    ):
        yield from draw(collection)
