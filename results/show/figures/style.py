"""What the figures share: how a cell looks, which panels there are, how a figure is saved."""

import base64
import html
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image

from harness.files import replacing_file
from results.compute.statistics import compute_half_width
from results.compute.summary import SETTING, primary_rows
from results.read.collect import PAPER_ORDER, Collection
from results.read.labels import label_cells, name_file, name_setting
from results.read.schema import LARGEST, NO_SEARCH, NUMBERS

if "MPLBACKEND" not in os.environ:  # Jupyter sets it, and shows the user's own figures with it
    mpl.use("agg")
MOST_PANELS = 12  # settings shown; a caption says where there are more
SEEDS = " (n = "  # in a legend, between a cell and its number of seeds
FEWEST_SEEDS = 3  # that get a band: the 95 % interval of two is 13 standard errors wide, and hides the rest
# Okabe and Ito's colours, which the colour-blind can tell apart, from dark to light so that grey tells them too.
COLORS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d00", "#7f7f7f"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<"]
LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "--", "-."]
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "aaebench",  # the same figure is the same file
    "pdf.fonttype": 42,  # TrueType, embedded: what publishers take
    "text.parse_math": False,  # names and options are text, dollar signs and all
}
mpl.rcParams.update(STYLE)


@dataclass(frozen=True)
class Drawing:
    """A figure, the stem of its files, its title, and what it shows in a sentence or two.

    Args: panels: how a narrower page may arrange them: in other rows (`wrap`), as columns of rows (`turn`), or not.
    """

    stem: str
    title: str
    caption: str
    figure: Figure
    panels: Literal["wrap", "turn", "keep"] = "wrap"

    def _repr_html_(self) -> str:
        """For Jupyter."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", bbox_inches="tight", dpi=80)
        with Image.open(buffer) as picture:
            source = encode_picture(picture.convert("RGB"))
        title, caption = html.escape(self.title), html.escape(self.caption)
        return f'<figure><img src="{source}" alt="{title}"><figcaption><b>{title}.</b> {caption}</figcaption></figure>'


def evaluations(collection: Collection) -> pd.DataFrame:
    """All prior-sample rows, of runs of every state, with `cell`: the label of what was trained.

    Without the trials of searches, which have a figure of their own. Numbers that cannot be drawn are missing.
    """
    runs = primary_rows(collection.runs)
    runs = runs[(runs["sampler"] == "prior") & (runs["search"] == NO_SEARCH)]
    return mask_undrawable(runs, NUMBERS).assign(cell=label_cells(runs))


def mask_undrawable(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The rows with numbers that are infinite, or so large that an axis of them overflows, as missing ones."""
    numbers = rows[columns].apply(pd.to_numeric, errors="coerce")
    drawable = numbers.where(numbers.abs() <= LARGEST)
    return rows.assign(**{name: drawable[name] for name in columns})


def note_undrawable(collection: Collection, measure: str) -> str:
    """A sentence on what of a measure is not drawn; nothing where all is."""
    values = pd.to_numeric(collection.runs[measure], errors="coerce")
    named = collection.runs["not_finite"].map(lambda names: isinstance(names, str) and measure in names.split())
    n = int((named | (values.abs() > LARGEST)).sum())
    return f" Not drawn: {n} values that are not finite or beyond {LARGEST:g}." if n else ""


def split_settings(rows: pd.DataFrame) -> tuple[list[tuple[str, str, pd.DataFrame]], str]:
    """(title, stem, rows) of each setting, MOST_PANELS of them at most; and a sentence where there are more."""
    keys = [name for name in SETTING if name != "sampler"]
    settings, taken = [], set()
    for _, group in rows.groupby(keys, dropna=False, sort=False):
        first = group.iloc[0]
        stem = name_file(f"{first['dataset']}-{first['image_size']}px", first, taken)
        title = name_setting(f"{first['dataset']} {first['image_size']} px, {first['epochs']} epochs", first)
        settings.append((title, stem, group))
    note = f" Shown: the first {MOST_PANELS} of {len(settings)} settings." if len(settings) > MOST_PANELS else ""
    return settings[:MOST_PANELS], note


def style_of(cells: list[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each cell; the paper's variants always have the same."""
    styles, free = {}, len(PAPER_ORDER)
    for cell in cells:
        if cell in PAPER_ORDER:
            number = PAPER_ORDER.index(cell)
        else:
            number, free = free, free + 1
        styles[cell] = {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": LINES[number % len(LINES)],
        }
    return styles


def cells_of(rows: pd.DataFrame) -> list[str]:
    return list(rows["cell"].unique())


def build_panels(n: int, width: float = 4.6, height: float = 3.4) -> tuple[Figure, Iterator[Axes]]:
    """A figure of n panels, as near to a square as they come; unused axes are hidden."""
    columns = min(n, max(2, math.ceil(math.sqrt(n))))
    rows = math.ceil(n / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns + 1.8, height * rows), squeeze=False)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, iter(axes.flat[:n])


def plot_seeds(
    axis: Axes, rows: pd.DataFrame, measure: str, styles: dict[str, dict[str, Any]], logarithmic: bool = False
) -> None:
    """Over epochs: a thin line per seed, their mean with markers, its 95 % interval as a band where there are three."""
    rows = rows.dropna(subset=[measure])
    for cell, group in rows.groupby("cell", sort=False):
        style = styles[str(cell)]
        for _, run in group.groupby("run_id"):
            axis.plot(run["epoch"], run[measure].astype(float), color=style["color"], linewidth=0.5, alpha=0.55)
        seeds = group.groupby("epoch")[measure]
        mean = seeds.mean().astype(float)
        half = compute_half_width(seeds.std().to_numpy(), seeds.count().to_numpy())
        every = max(1, len(mean) // 12)
        axis.plot(
            mean.index, mean, label=f"{cell}{SEEDS}{group['run_id'].nunique()})", markersize=4, markevery=every, **style
        )
        known = seeds.count().to_numpy() >= FEWEST_SEEDS
        epochs = mean.index.to_numpy()[known]
        low, high = mean.to_numpy()[known] - half[known], mean.to_numpy()[known] + half[known]
        axis.fill_between(epochs, low, high, color=style["color"], alpha=0.13, linewidth=0)
    show_seeds(axis, rows[measure], logarithmic)
    count_epochs(axis)


def show_seeds(axis: Axes, values: pd.Series, logarithmic: bool = False) -> None:
    """Limits at the seeds' own values: the interval of two may be wider than all there is to see.

    Args: logarithmic: the axis, unless there is a value of (nearly) 0 or less, of which it could show nothing.
    """
    numbers = values.astype(float)
    if logarithmic and len(numbers) and numbers.min() > 1 / LARGEST:
        use_logarithms(axis, "y")
        margin = (numbers.max() / numbers.min()) ** 0.06 if numbers.max() > numbers.min() else 1.06
        axis.set_ylim(numbers.min() / margin, numbers.max() * margin)
    elif len(numbers):
        margin = 0.06 * (numbers.max() - numbers.min() or abs(numbers.max()) or 1)
        axis.set_ylim(numbers.min() - margin, numbers.max() + margin)


def use_logarithms(axis: Axes, of: Literal["x", "y"] = "x") -> None:
    """A logarithmic x axis, or y axis, its numbers written as text."""
    axis.set(**{f"{of}scale": "log"})
    scale = axis.xaxis if of == "x" else axis.yaxis
    scale.set_major_formatter(LogFormatter())
    scale.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))


def count_epochs(axis: Axes) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def add_legend(figure: Figure, axes: list[Axes]) -> None:
    """One legend for all panels, to their right; a cell stands in it once, however many seeds it has in each."""
    handles: dict[str, Any] = {}
    seeds: dict[str, set[int]] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            name, _, n = label.partition(SEEDS)
            handles.setdefault(name, handle)
            seeds.setdefault(name, set()).update([int(n[:-1])] if n else [])
    labels = [f"{name}{SEEDS}{_span(seeds[name])})" if seeds[name] else name for name in handles]
    figure.tight_layout()
    figure.legend(handles.values(), labels, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def _span(numbers: set[int]) -> str:
    return str(min(numbers)) if len(numbers) == 1 else f"{min(numbers)} to {max(numbers)}"


def encode_picture(image: Image.Image) -> str:
    """A data URI, of the smaller of WebP's two forms."""
    forms = []
    for options in ({"lossless": True}, {"quality": 85}):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", **options)
        forms.append(buffer.getvalue())
    return f"data:image/webp;base64,{base64.b64encode(min(forms, key=len)).decode()}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write it in the format of the file's suffix, atomically; a PDF has exactly the figure's size. Raises: OSError."""
    around: dict[str, Any] = {"dpi": 130, "bbox_inches": "tight", "pad_inches": 0.08}
    options = {
        ".png": around,
        ".svg": around | {"metadata": {"Date": None}},
        ".pdf": {"dpi": 300, "metadata": {"CreationDate": None}},
    }[path.suffix]
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], **options)
