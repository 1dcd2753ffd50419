"""Distributions of mu and sigma over training (Fig. 10), and FID against the noise that the codes hold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from harness.measures import name_fid
from harness.schema import is_histogram
from results.read.collect import Collection
from results.read.schema import LARGEST
from results.show.figures.style import (
    Drawing,
    add_legend,
    build_panels,
    cells_of,
    count_epochs,
    evaluations,
    note_undrawable,
    show_seeds,
    split_settings,
    style_of,
)

MOST_COLUMNS = 8


def draw_posterior(collection: Collection) -> Iterator[Drawing]:
    """Histograms of mu (top) and sigma (bottom) over epochs, a figure per setting (the paper's Fig. 10)."""
    rows = evaluations(collection)
    settings, more = split_settings(rows[rows["sigma_mean"].notna()])
    for name, stem, group in settings:
        cells = cells_of(group)[:MOST_COLUMNS]
        styles = style_of(cells_of(group))
        figure, axes = plt.subplots(
            2, len(cells), figsize=(2.1 * len(cells) + 1, 4.4), squeeze=False, sharex=True, sharey="row"
        )
        drawn, left_out = False, 0
        for column, cell in enumerate(cells):
            runs = group.loc[group["cell"] == cell, ["run_id", "protocol_id"]].drop_duplicates()
            for axis, what in zip(axes[:, column], ("mu", "sigma"), strict=True):
                any_drawn, others = _draw_histograms(axis, collection, runs, what, styles[cell])
                drawn, left_out = drawn or any_drawn, left_out + others
            axes[0, column].set_title(cell.replace(" (", "\n("), fontsize=9)
            count_epochs(axes[1, column])
        axes[0, 0].set_ylabel("μ")
        axes[1, 0].set_ylabel("|σ|")
        for axis in axes[1]:
            axis.axhline(1, color="0.5", linewidth=0.7, linestyle=":")
        figure.tight_layout()
        if drawn:
            caption = (
                f"{name}. Grey: all training images and dimensions over all seeds, darker where there are more; "
                "lines: the median of each seed; dotted: the prior's sigma."
            )
            caption += (
                f" The first {MOST_COLUMNS} of {len(cells_of(group))}." if len(cells_of(group)) > MOST_COLUMNS else ""
            )
            caption += f" Not drawn: {left_out} histograms of other bins, or of none." if left_out else ""
            caption += more
            yield Drawing(f"figure10-{stem}", f"Fig. 10: mu and sigma over training, {name}", caption, figure, "turn")
        plt.close(figure)


def _draw_histograms(
    axis: Axes, collection: Collection, runs: pd.DataFrame, what: str, style: dict[str, Any]
) -> tuple[bool, int]:
    """Returns: whether there was any, and how many could not be drawn into the bins of the first."""
    pooled: dict[int, np.ndarray] = {}
    edges, left_out = None, 0
    for run_id, protocol_id in runs.itertuples(index=False):
        epochs, medians = [], []
        for record in collection.read_posteriors(run_id, protocol_id):
            histogram = record.get(f"posterior/{what}_histogram")
            if histogram is None:
                continue
            if not is_histogram(histogram):
                left_out += 1
                continue
            own, counts = np.array(histogram["edges"], float), np.array(histogram["counts"], float)
            edges = own if edges is None and _is_drawable(own, counts) else edges
            if edges is None or not np.array_equal(own, edges) or not _is_drawable(own, counts):
                left_out += 1
                continue
            pooled[record["epoch"]] = pooled.get(record["epoch"], 0) + counts
            epochs.append(record["epoch"])
            medians.append(np.interp(counts.sum() / 2, np.concatenate([[0], counts.cumsum()]), edges))
        axis.plot(epochs, medians, color=style["color"], linewidth=1.1)
    if not pooled or edges is None:
        return False, left_out
    epochs = sorted(pooled)
    density = np.stack([pooled[epoch] / pooled[epoch].sum() for epoch in epochs], axis=1)
    middles = (np.array(epochs[:-1]) + np.array(epochs[1:])) / 2
    borders = np.concatenate([[epochs[0] - 0.5], middles, [epochs[-1] + 0.5]])
    shade = np.sqrt(density / density.max(axis=0))  # each epoch's mode is as dark; the square root shows the tails
    axis.pcolormesh(borders, edges, shade, cmap="Greys", vmin=0, vmax=1.5, rasterized=True, zorder=0)
    return True, left_out


def _is_drawable(edges: np.ndarray, counts: np.ndarray) -> bool:
    """Whether they are bins, one beside the other, that an axis can hold, with something in them."""
    return bool((np.diff(edges) > 0).all() and np.abs(edges).max() <= LARGEST and 0 < counts.sum() <= LARGEST)


def draw_fid_against_noise_share(collection: Collection) -> Iterator[Drawing]:
    """Each run's way through the plane of noise share and FID, a panel per setting."""
    rows = evaluations(collection)
    rows = rows.dropna(subset=["noise_share", "fid"])
    settings, more = split_settings(rows)
    if not settings:
        return
    styles = style_of(cells_of(rows))
    figure, axes = build_panels(len(settings))
    used = []
    for axis, (name, _, group) in zip(axes, settings, strict=True):
        for cell, runs in group.groupby("cell", sort=False):
            style = styles[str(cell)]
            for number, (_, run) in enumerate(runs.groupby("run_id")):
                axis.plot(run["noise_share"], run["fid"], color=style["color"], linewidth=0.6, alpha=0.6)
                label = f"{cell} (n = {runs['run_id'].nunique()})" if number == 0 else None
                _mark_end(axis, run, style, label)
        axis.axvspan(0, 0.05, color="0.85", zorder=0)
        axis.annotate("variance\ncollapse", (0.005, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=7)
        axis.set(xlabel="noise share of the codes", ylabel="FID of prior samples", xlim=(0, 1))
        show_seeds(axis, group["fid"], logarithmic=True)
        axis.set_title(name.replace(" (", "\n("))
        used.append(axis)
    add_legend(figure, used)
    caption = "Lines: each seed from its first to its last evaluation, the marker. Shaded: less than 5 % is noise."
    caption += more + note_undrawable(collection, "fid")
    title = f"{name_fid(rows['extractor'])} against noise share"
    yield Drawing("fid-noise-share", title, caption, figure)
    plt.close(figure)


def _mark_end(axis: Axes, run: pd.DataFrame, style: dict[str, Any], label: str | None) -> None:
    end = run.iloc[[-1]]
    shape = {"marker": style["marker"], "color": style["color"], "linestyle": "none", "markersize": 6}
    axis.plot(end["noise_share"], end["fid"], label=label, markeredgecolor="white", markeredgewidth=0.5, **shape)
