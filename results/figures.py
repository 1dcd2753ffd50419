"""Figures: samples with the variants down, and sigma over epochs with every seed shown."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from results.collect import Collection
from results.summary import distinguishing_options

mpl.use("agg")
GRID = 8  # samples a side in a run's PNG
COLUMNS = 16
STYLES = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"), ("X", "-."), ("*", ":")]


def draw_samples(collection: Collection, rows_each: int = 2) -> Figure:
    """Samples of each cell's first finished seed at its last evaluation: variants down (as the paper's Fig. 7)."""
    runs = collection.runs[(collection.runs["state"] == "done") & (collection.runs["sampler"] == "prior")]
    runs = runs.assign(cell=_label_cells(runs))
    first_seed = runs[runs["seed"] == runs.groupby("cell")["seed"].transform("min")]
    last = first_seed.loc[first_seed.groupby("cell", sort=False)["epoch"].idxmax()]
    cells = list(zip(last["cell"], last["run_id"], last["epoch"], last["seed"], strict=True))
    figure, axes = plt.subplots(len(cells), 1, figsize=(10, 0.63 * rows_each * len(cells) + 0.3), squeeze=False)
    for axis, (cell, run_id, epoch, seed) in zip(axes[:, 0], cells, strict=True):
        picture = np.asarray(Image.open(collection.paths[run_id] / "samples" / f"epoch-{epoch:06d}.png"))
        side = picture.shape[0] // GRID
        tiles = picture.reshape(GRID, side, GRID, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
        framed = np.pad(tiles, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)[: rows_each * COLUMNS]
        strips = [np.concatenate(list(framed[row::rows_each]), axis=1) for row in range(rows_each)]
        axis.imshow(np.concatenate(strips), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(f"{cell}\nseed {seed}", rotation=0, ha="right", va="center", fontsize=8)
    dataset, epoch = runs["dataset"].iloc[0], last["epoch"].max()
    figure.suptitle(f"Prior samples, {dataset}, epoch {epoch}", fontsize=11)
    figure.tight_layout()
    return figure


def draw_sigma(collection: Collection) -> Figure:
    """Mean |sigma| over epochs: a thin line per seed, the mean over seeds with markers (as the paper's Fig. 10)."""
    runs = collection.runs.dropna(subset=["sigma_mean"])
    runs = runs[runs["sampler"] == "prior"]
    runs = runs.assign(cell=_label_cells(runs))
    figure, axis = plt.subplots(figsize=(9, 4.5))
    for number, (cell, rows) in enumerate(runs.groupby("cell", sort=False)):
        marker, line = STYLES[number % len(STYLES)]
        color = f"C{number}"
        for _, run in rows.groupby("run_id"):
            axis.plot(run["epoch"], run["sigma_mean"].astype(float), color=color, linewidth=0.6, alpha=0.6)
        mean = rows.groupby("epoch")["sigma_mean"].apply(lambda values: pd.to_numeric(values).mean())
        label = f"{cell} (n = {rows['run_id'].nunique()})"
        axis.plot(mean.index, mean, color=color, linestyle=line, marker=marker, markersize=4, label=label)
    axis.axhline(1, color="0.5", linewidth=0.8)
    axis.text(runs["epoch"].max(), 1.01, "the prior's", ha="right", va="bottom", fontsize=8, color="0.35")
    axis.set(xlabel="epoch", ylabel="mean |σ| of q(z|x)", title=f"Posterior σ, {runs['dataset'].iloc[0]}")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def _label_cells(runs: pd.DataFrame) -> list[str]:
    """The variant, and below it the options in which its runs differ."""
    return [
        "\n".join([variant, *options.split()])
        for variant, options in zip(runs["variant"], distinguishing_options(runs), strict=True)
    ]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically, and close the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    temporary.replace(path)
