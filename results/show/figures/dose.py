"""Dose and response: what becomes of the samples as a remedy, or a setting, holds sigma at several levels."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from harness.measures import name_fid
from results.compute.dose import FAMILY, RESPONSES
from results.read.labels import add_label, label_setting, name_file, name_setting
from results.show.figures.style import (
    COLORS,
    LINES,
    MARKERS,
    MOST_PANELS,
    Drawing,
    add_legend,
    build_panels,
    mask_undrawable,
    show_seeds,
)

CAPTION = (
    "Dots: runs; lines join the means of a dose's levels, from the lowest to the highest. Shaded: variance collapse, "
    "less than 5 % of the codes' variance is noise. dose_response.csv has each correlation with its interval."
)
PLACE = ["variant", "dataset", "image_size", "epochs", "protocol_id"]


def draw_dose(doses: pd.DataFrame) -> Iterator[Drawing]:
    """A figure for each variant, data set and reading: a panel for each response, a colour for each dose.

    Args: doses: compute.dose.DOSE.
    """
    drawable = mask_undrawable(doses, ["noise_share", *RESPONSES])
    groups = [*drawable.groupby(PLACE, dropna=False, sort=False)]
    more = f" Shown: the first {MOST_PANELS} of {len(groups)}." if len(groups) > MOST_PANELS else ""
    taken: set[str] = set()
    for (variant, dataset, size, epochs, _), group in groups[:MOST_PANELS]:
        responses = [name for name in RESPONSES if group[name].notna().any()]
        if not responses:
            continue
        figure, axes = build_panels(len(responses), 3.6, 3.0)
        used = []
        for axis, response in zip(axes, responses, strict=True):
            _plot(axis, group.dropna(subset=[response]), response)
            label = RESPONSES[response][0].replace("FID", name_fid(group["extractor"])).replace(") ", ")\n")
            axis.set(xlabel="noise share of the codes", ylabel=label)
            used.append(axis)
        add_legend(figure, used)
        first = {"epochs": epochs}  # what else a family shares differs from dose to dose, and stands in its name
        stem = name_file(f"dose-{str(variant).rpartition(':')[2]}-{dataset}-{size}px", first, taken)
        place = f"Dose and response: {variant}, {dataset} {size} px, {epochs} epochs"
        title = name_setting(place, {"extractor": group["extractor"].iloc[0]})
        yield Drawing(stem, title, CAPTION + more, figure)
        plt.close(figure)


def _plot(axis: Axes, group: pd.DataFrame, response: str) -> None:
    for number, (_, family) in enumerate(group.groupby(FAMILY, dropna=False, sort=False)):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        levels = family.groupby("level")[["noise_share", response]].mean()
        label = add_label(str(family["family"].iloc[0]), label_setting(family.iloc[0]))
        style: dict[str, Any] = {"color": color, "linestyle": LINES[number % len(LINES)], "linewidth": 1.1}
        axis.plot(family["noise_share"], family[response], marker, color=color, markersize=3.5, alpha=0.7)
        axis.plot(levels["noise_share"], levels[response], marker=marker, markersize=5, label=label, **style)
    axis.axvspan(0, 0.05, color="0.88", zorder=0)
    axis.set_xlim(0, min(1.0, max(0.1, 1.06 * group["noise_share"].max())))
    show_seeds(axis, group[response])
