"""Curves over epochs: FID (Fig. 9), sigma, losses."""

from collections.abc import Container, Iterator
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt

from harness.measures import name_fid
from results.read.collect import Collection
from results.show.figures.style import (
    Drawing,
    add_legend,
    build_panels,
    cells_of,
    evaluations,
    mask_undrawable,
    note_undrawable,
    plot_seeds,
    split_settings,
    style_of,
)

MOST_PHASES = 12  # in a figure: a variant of our own has four at most
ODD = "far off its cell's other seeds"
RING: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "#a3261b"}
BANDS = "Thin lines: seeds; markers: their mean; bands: its 95 % interval, of three seeds or more."


def draw_fid(collection: Collection, odd: Container[str] = ()) -> Iterator[Drawing]:
    """FID over epochs, a panel per setting (the paper's Fig. 9); runs that are `odd` are marked.

    Its axis is logarithmic: an untrained decoder's FID is many times what training is about.
    """
    title = f"Fig. 9: {name_fid(collection.runs['extractor'])} over training"
    yield from _draw_measure(collection, "fid", "FID of prior samples", "figure9-fid", title, odd=odd, logarithmic=True)


def draw_sigma(collection: Collection, odd: Container[str] = ()) -> Iterator[Drawing]:
    """Mean |sigma| of the posterior over epochs, a panel per setting; runs that are `odd` are marked."""
    title = "Mean sigma of the posterior over training"
    yield from _draw_measure(collection, "sigma_mean", "mean |σ| of q(z|x)", "sigma", title, 1.0, odd)


def _draw_measure(
    collection: Collection,
    measure: str,
    label: str,
    stem: str,
    title: str,
    prior: float | None = None,
    odd: Container[str] = (),
    logarithmic: bool = False,
) -> Iterator[Drawing]:
    rows = evaluations(collection)
    settings, more = split_settings(rows[rows[measure].notna()])
    if not settings:
        return
    styles = style_of(cells_of(rows))
    figure, axes = build_panels(len(settings))
    used = []
    for axis, (name, _, group) in zip(axes, settings, strict=True):
        plot_seeds(axis, group, measure, styles, logarithmic)
        marked = group[[run_id in odd for run_id in group["run_id"]]].drop_duplicates("run_id", keep="last")
        if len(marked):
            axis.plot(marked["epoch"], marked[measure].astype(float), "o", **RING, label=ODD)
        axis.set(title=name.replace(" (", "\n("), ylabel=label)
        if prior is not None:
            axis.set_ylim(0, max(axis.get_ylim()[1], 1.05 * prior))
            axis.axhline(prior, color="0.5", linewidth=0.8)
            axis.annotate(
                "the prior's", (1, prior), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
            )
        used.append(axis)
    add_legend(figure, used)
    yield Drawing(stem, title, BANDS + more + note_undrawable(collection, measure), figure)
    plt.close(figure)


def draw_losses(collection: Collection) -> Iterator[Drawing]:
    """Learning curves: each phase's loss over all epochs, a figure per setting, every seed a line."""
    settings, more = split_settings(evaluations(collection))
    for name, stem, group in settings:
        runs = group.drop_duplicates("run_id")
        parts = []
        for run_id, cell in zip(runs["run_id"], runs["cell"], strict=True):
            records = pd.DataFrame(collection.read_records(run_id))
            losses = [str(key) for key in records if str(key).startswith("loss/")]
            if losses:
                parts.append(mask_undrawable(records[["epoch", *losses]], losses).assign(run_id=run_id, cell=cell))
        if not parts:
            continue
        table = pd.concat(parts, ignore_index=True)
        phases = [str(key) for key in table if str(key).startswith("loss/")]
        others = f" The first {MOST_PHASES} of {len(phases)} phases." if len(phases) > MOST_PHASES else ""
        phases = phases[:MOST_PHASES]
        styles = style_of(cells_of(group))
        figure, axes = plt.subplots(1, len(phases), figsize=(3.6 * len(phases) + 1.6, 3.1), squeeze=False)
        for axis, phase in zip(axes[0], phases, strict=True):
            plot_seeds(axis, table, phase, styles)
            axis.set(title=phase.removeprefix("loss/"), ylabel="loss")
        add_legend(figure, list(axes[0]))
        caption = f"The mean of each epoch's steps. {BANDS}{others}{more}"
        yield Drawing(f"losses-{stem}", f"Learning curves, {name}", caption, figure)
        plt.close(figure)
