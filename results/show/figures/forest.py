"""The forest plot: each variant's FID over the AAE's, data set by data set, and over all of them."""

from collections.abc import Iterator

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from harness.measures import name_fid
from results.compute.across_datasets import SHARED
from results.read.labels import label_cells, name_file, name_setting
from results.read.schema import LARGEST
from results.show.figures.style import Drawing, use_logarithms

CAPTION = (
    "Ratio of FIDs with 95 % intervals, on a logarithmic axis; squares: data sets; diamonds: over all of them (random "
    "effects, Hartung and Knapp's intervals). Left of 1: better than the AAE."
)


def draw_forest(comparisons: pd.DataFrame, across: pd.DataFrame) -> Iterator[Drawing]:
    """A figure for each campaign with two data sets or more; of prior samples."""
    pooled = across[(across["measure"] == "fid") & (across["sampler"] == "prior") & (across["scale"] == "log")]
    single = comparisons[(comparisons["measure"] == "fid") & comparisons["ratio_low"].notna()]
    pooled, single = _drawable(pooled), _drawable(single)
    taken: set[str] = set()
    for _, campaign in pooled.groupby(SHARED, dropna=False, sort=False):
        keys = ["variant", "options", *SHARED]
        rows = single.merge(campaign[keys], on=keys)
        figure, axis = plt.subplots(figsize=(6.4, 0.8 + 0.24 * (len(rows) + 2 * len(campaign))))
        ticks = _plot(axis, rows, campaign)
        axis.axvline(1, color="0.5", linewidth=0.8)
        use_logarithms(axis)
        axis.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
        axis.set_xlabel(f"{name_fid(campaign['extractor'])} over the AAE's")
        axis.invert_yaxis()
        figure.tight_layout()
        title = name_setting("FID over all data sets", campaign.iloc[0])
        yield Drawing(name_file("forest-fid", campaign.iloc[0], taken), title, CAPTION, figure, "keep")
        plt.close(figure)


def _drawable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose ratio and interval an axis can hold; an interval may be missing."""
    numbers = rows[["ratio", "ratio_low", "ratio_high"]].astype(float)
    return rows[(numbers.isna() | ((numbers > 0) & (numbers < LARGEST))).all(axis=1)]


def _plot(axis: Axes, rows: pd.DataFrame, campaign: pd.DataFrame) -> list[tuple[float, str]]:
    """Returns: the places of the lines and their names."""
    ticks: list[tuple[float, str]] = []
    place = 0
    for label, (_, whole) in zip(label_cells(campaign), campaign.iterrows(), strict=True):
        own = rows[(rows["variant"] == whole["variant"]) & (rows["options"] == whole["options"])]
        for _, row in own.iterrows():
            _draw_interval(axis, place, row, marker="s", color="0.45", markersize=4)
            ticks.append((place, f"{row['dataset']} {row['image_size']} px"))
            place += 1
        _draw_interval(axis, place, whole, marker="D", color="#0072B2", markersize=7)
        ticks.append((place, label))
        place += 2
    return ticks


def _draw_interval(axis: Axes, place: int, row: pd.Series, **style: object) -> None:
    reach = [[row["ratio"] - row["ratio_low"]], [row["ratio_high"] - row["ratio"]]]
    axis.errorbar([row["ratio"]], [place], xerr=reach, linewidth=1.2, capsize=2, **style)  # pyright: ignore[reportArgumentType]
