"""Sample grids from the pictures that the runs saved, each of the same codes over its whole training."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from harness.escape import printable
from results.compute.baseline import BASELINE
from results.compute.summary import SETTING
from results.read.collect import Collection
from results.show.figures.style import Drawing, evaluations, split_settings

GRID = 8  # samples a side in a run's PNG
MOST_SIDE = 1024  # pixels of one sample
SHAPE = (3, 8)  # rows and columns shown of it


def draw_samples(collection: Collection) -> Iterator[Drawing]:
    """Variants down (the paper's Fig. 7); across the data sets, or the seeds where there is one setting."""
    rows = find_pictures(collection)
    if rows.empty:
        return
    settings, more = split_settings(rows)
    if len(settings) == 1:
        name, _, rows = settings[0]
        columns = [(f"seed {seed}", group) for seed, group in rows.groupby("seed")]
        shape, note = SHAPE, f"{name}: every seed"
    else:
        titles = [name.replace(", ", "\n").replace(" (", "\n(") for name, _, _ in settings]
        columns = [(title, first_seed(group)) for title, (_, _, group) in zip(titles, settings, strict=True)]
        shape, note = (4, 4), "The first seed of each; the report's tables count all"
    cells = [cell for cell in rows["cell"].unique() if any((group["cell"] == cell).any() for _, group in columns)]
    width, height = 0.42 * shape[1] + 0.1, 0.42 * shape[0] + 0.1
    figure, axes = plt.subplots(
        len(cells),
        len(columns),
        figsize=(width * len(columns) + 1.2, height * len(cells) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for line, cell in zip(axes, cells, strict=True):
        for axis, (_, group) in zip(line, columns, strict=True):
            _show(axis, collection, group[group["cell"] == cell], shape)
        line[0].set_ylabel(cell.replace(" (", "\n("), rotation=0, ha="right", va="center", fontsize=9)
    for axis, (name, _) in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    yield Drawing("figure7-samples", "Fig. 7: prior samples", f"{note}, at the last evaluation.{more}", figure, "keep")
    plt.close(figure)


def draw_pair(collection: Collection) -> Iterator[Drawing]:
    """The AAE beside VAE-GAN (Fig. 4), and at 64 px beside n-iter (Fig. 8), at the last epoch that both evaluated."""
    rows = find_pictures(collection, last=False)
    for figure_name, other, sizes in (("Fig. 4", "vae_gan", None), ("Fig. 8", "n_iter", [64])):
        chosen = rows[rows["variant"].isin([BASELINE, other])]
        chosen = chosen if sizes is None else chosen[chosen["image_size"].isin(sizes)]
        settings, more = split_settings(chosen)
        for name, stem, group in settings:
            common = set(group.loc[group["variant"] == BASELINE, "epoch"]) & set(
                group.loc[group["variant"] == other, "epoch"]
            )
            if not common:
                continue
            epoch = max(common)
            shown = group[group["epoch"] == epoch]
            figure, axes = plt.subplots(1, 2, figsize=(7.4, 4.1))
            for axis, variant in zip(axes, (BASELINE, other), strict=True):
                pictured = first_seed(shown[shown["variant"] == variant])
                _show(axis, collection, pictured, (GRID, GRID))
                axis.set_title(f"{pictured['cell'].iloc[0]}, seed {pictured['seed'].iloc[0]}", fontsize=9)
            figure.tight_layout()
            number = figure_name[-1]
            title = f"{figure_name}: the AAE beside {other}, {name}"
            yield Drawing(f"figure{number}-{stem}", title, f"Prior samples at epoch {epoch}.{more}", figure, "keep")
            plt.close(figure)


def find_pictures(collection: Collection, last: bool = True) -> pd.DataFrame:
    """Evaluations of finished runs whose picture lies in the run's folder; the last of each, or all."""
    rows = evaluations(collection)
    rows = rows[rows["state"] == "done"]
    if last:
        rows = rows[rows["epoch"] == rows.groupby("run_id")["epoch"].transform("max")]
    files = [
        collection.paths[run_id] / "samples" / f"epoch-{epoch:06d}.png"
        for run_id, epoch in zip(rows["run_id"], rows["epoch"], strict=True)
    ]
    rows = rows.assign(picture=[str(file) for file in files])
    return rows[[file.is_file() for file in files]] if len(rows) else rows


def first_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each cell's first seed."""
    keys = [name for name in SETTING if name != "sampler"]
    return rows[rows["seed"] == rows.groupby([*keys, "cell"], dropna=False)["seed"].transform("min")]


def read_picture(file: str) -> np.ndarray:
    """(H, W, 3) uint8. Raises: ValueError before its pixels are read if they are no grid of images; others as PIL."""
    with Image.open(file) as image:
        width, height = image.size
        if width != height or width % GRID or not 1 < width // GRID <= MOST_SIDE:
            raise ValueError(f"{width} x {height} px are no {GRID} x {GRID} images")
        return np.asarray(image.convert("RGB"))


def _show(axis: Axes, collection: Collection, rows: pd.DataFrame, shape: Sequence[int]) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if rows.empty:
        axis.text(
            0.5, 0.5, "no finished run", ha="center", va="center", fontsize=8, color="0.4", transform=axis.transAxes
        )
        return
    try:
        picture = read_picture(rows["picture"].iloc[0])
    except Exception as error:  # what a damaged picture raises is open-ended, and none may stop the report
        text = printable(f"damaged picture\n{error}", lines=True)[:60]
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, transform=axis.transAxes)
        return
    side = picture.shape[0] // GRID
    axis.imshow(picture[: side * shape[0], : side * shape[1]], interpolation="nearest")
