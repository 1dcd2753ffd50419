"""Sweep curves: a measure over the one number in which a variant's runs differ (mapping depth, n, KLD weight)."""

import json
import math
from collections.abc import Iterator

import pandas as pd
from matplotlib import pyplot as plt

from harness.measures import MEASURES
from results.compute.statistics import compute_half_width
from results.read.collect import Collection
from results.read.schema import LARGEST
from results.show.figures.style import COLORS, Drawing, evaluations, show_seeds, split_settings, use_logarithms

SHOWN = ("fid", "noise_share")


def draw_option_curves(collection: Collection) -> Iterator[Drawing]:
    """A figure per setting and variant of which an option takes three numbers or more; a line per other options."""
    rows = evaluations(collection)
    rows = rows[rows["state"] == "done"]
    last = rows[rows["epoch"] == rows.groupby("run_id")["epoch"].transform("max")]
    settings, more = split_settings(last)
    for name, stem, group in settings:
        for variant, runs in group.groupby("variant", sort=False):
            options = pd.DataFrame([json.loads(text) for text in runs["options"]], index=runs.index)
            for option in options:
                numbers = options[option].map(_to_number)
                if numbers.nunique() < 3 or numbers.isna().any():
                    continue
                others = options.drop(columns=option)
                others = others[[key for key in others if others[key].astype(str).nunique() > 1]]
                lines = others.apply(lambda row: ", ".join(f"{key} = {value}" for key, value in row.items()), axis=1)
                lines = lines if len(others.columns) else pd.Series("", index=runs.index)
                figure = _draw(runs.assign(number=numbers, line=lines), str(option))
                title = f"{variant}: {option}, {name}"
                caption = "Dots: seeds; line: their mean; bars: its 95 % interval. Last epoch of finished runs." + more
                yield Drawing(f"option-{str(variant).rpartition(':')[2]}-{option}-{stem}", title, caption, figure)
                plt.close(figure)


def _to_number(value: object) -> float:
    """NaN for what is no number that can be drawn."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    return math.nan


def _draw(runs: pd.DataFrame, option: str):
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(4.2 * len(SHOWN), 3.2))
    values = sorted(runs["number"].unique())
    is_logarithmic = values[0] > 0 and values[-1] / values[0] > 20
    for axis, measure in zip(axes, SHOWN, strict=True):
        for number, (line, group) in enumerate(runs.dropna(subset=[measure]).groupby("line", sort=False)):
            color = COLORS[(number + 1) % len(COLORS)]
            axis.plot(group["number"], group[measure], ".", color=color, markersize=5, alpha=0.7)
            seeds = group.groupby("number")[measure]
            half = compute_half_width(seeds.std().to_numpy(), seeds.count().to_numpy())
            style = "-" if number == 0 else "--"
            axis.errorbar(seeds.mean().index, seeds.mean(), half, color=color, linestyle=style, capsize=2, label=line)
        axis.set(xlabel=option, ylabel=MEASURES[measure].title_by(runs["extractor"].iloc[0]))
        show_seeds(axis, runs[measure].dropna())
        if is_logarithmic:
            use_logarithms(axis)
        if runs["line"].nunique() > 1:
            axis.legend(fontsize=7)
    figure.tight_layout()
    return figure
