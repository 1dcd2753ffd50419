"""Every seed in every score at once: parallel coordinates, a small panel for each cell."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from harness.measures import Measure, select
from results.read.collect import Collection
from results.show.figures.style import Drawing, build_panels, cells_of, evaluations, split_settings, style_of

CAPTION = (
    "A line: a seed at its last evaluation; grey: the other cells' seeds. Left the worst seed of the setting, right "
    "the best, or the least and the most where neither is better: "
)
MOST_CELLS = 16
SCORES = [measure for measure in select(place="report") if measure.over_seeds]


def draw_seeds(collection: Collection) -> Iterator[Drawing]:
    """A figure for each setting in which two scores were measured of two finished seeds."""
    rows = evaluations(collection)
    rows = rows[rows["state"] == "done"].drop_duplicates("run_id", keep="last")
    settings, more = split_settings(rows)
    for name, stem, group in settings:
        axes = {score: placed for score in SCORES if (placed := _place(group, score)) is not None}
        cells = cells_of(group)[:MOST_CELLS]
        if len(axes) < 2 or group["cell"].value_counts().max() < 2:
            continue
        styles = style_of(cells_of(group))
        figure, panels = build_panels(len(cells), 3.2, 2.6)
        lines, levels = np.stack([places for places, _ in axes.values()]), range(len(axes))
        for panel, cell in zip(panels, cells, strict=True):
            own = (group["cell"] == cell).to_numpy()
            panel.plot(lines[:, ~own], levels, color="0.85", linewidth=0.7, zorder=1)
            shape = {**styles[cell], "linewidth": 1.1, "markersize": 4}
            panel.plot(lines[:, own], levels, **shape)
            titles = [score.title_by(group["extractor"].iloc[0]).replace(" (", "\n(") for score in axes]
            _name_axes(panel, f"{cell} (n = {own.sum()})", titles)
        figure.tight_layout()
        others = f" The first {MOST_CELLS} of {len(cells_of(group))}." if len(cells_of(group)) > MOST_CELLS else ""
        caption = CAPTION + ", ".join(f"{score.column_title} {ends}" for score, (_, ends) in axes.items()) + "."
        yield Drawing(f"seeds-{stem}", f"Every seed in every score, {name}", caption + others + more, figure)
        plt.close(figure)


def _place(rows: pd.DataFrame, measure: Measure) -> tuple[np.ndarray, str] | None:
    """Places from 0, the worst, to 1 (N,), and what stands there; None for a score that does not tell seeds apart."""
    values = rows[measure.name].to_numpy(float, na_value=np.nan)
    if len(np.unique(values[np.isfinite(values)])) < 2:
        return None
    scaled = np.log(values) if measure.scale == "log" and np.nanmin(values) > 0 else values
    places = (scaled - np.nanmin(scaled)) / (np.nanmax(scaled) - np.nanmin(scaled))
    ends = [np.nanmin(values), np.nanmax(values)]
    if measure.better == "lower":
        places, ends = 1 - places, ends[::-1]
    return places, " to ".join(f"{end * measure.factor:.{measure.digits}f}" for end in ends)


def _name_axes(panel: Axes, title: str, names: list[str]) -> None:
    panel.set_title(title.replace(" (", "\n(", 1) if len(title) > 30 else title, fontsize=9)
    panel.set_yticks(range(len(names)), names)
    panel.set_xticks([])
    panel.set(xlim=(-0.06, 1.06), ylim=(len(names) - 0.6, -0.4))
    panel.spines[:].set_visible(False)
    panel.tick_params(left=False)
    for place in range(len(names)):
        panel.axhline(place, color="0.7", linewidth=0.7, zorder=0)
