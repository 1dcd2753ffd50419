"""Sample grids over the epochs of a training, as the report's sliders show them: every cell beside the others."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from results.read.collect import Collection
from results.show.figures.samples import GRID, find_pictures, first_seed, read_picture
from results.show.figures.style import split_settings

ROWS = 3  # of a picture's eight that are shown
MOST_SIDE = 64  # pixels of an image: larger ones are shrunk
MOST_PIXELS = 8_000_000  # of all frames of a report, so that its file stays small: some 1.5 MB
QUALITY = 50  # WebP's


@dataclass(frozen=True)
class Grids:
    """One setting: `frames` has for each cell its name and, for each of `epochs`, a data URI, or None without picture.

    Args: width, height: of a frame, in pixels.
    """

    title: str
    epochs: Sequence[int]
    frames: Sequence[tuple[str, Sequence[str | None]]]
    width: int
    height: int


def build_grids(collection: Collection) -> tuple[list[Grids], str]:
    """The first seed of each cell, at epochs evenly spread over those that were evaluated; and what is left out."""
    rows = find_pictures(collection, last=False)
    settings, more = split_settings(rows) if len(rows) else ([], "")
    needed = sum(group["cell"].nunique() * _count_pixels(group) for _, _, group in settings)
    each = max(2, MOST_PIXELS // max(1, needed))
    grids, left, left_out = [], MOST_PIXELS, 0
    for name, _, group in settings:
        files = first_seed(group).drop_duplicates(["cell", "epoch"]).set_index(["cell", "epoch"])["picture"]
        epochs = _spread(sorted(group["epoch"].unique()), each)
        line = len(epochs) * _count_pixels(group)
        cells = list(group["cell"].unique())[: left // line]
        left -= len(cells) * line
        left_out += group["cell"].nunique() - len(cells)
        frames = [(cell, [_encode(files.get((cell, epoch))) for epoch in epochs]) for cell in cells]
        if any(frame for _, shown in frames for frame in shown):
            grids.append(Grids(name, epochs, frames, GRID * _side(group), ROWS * _side(group)))
    more += f" Left out, so that this file stays small: {left_out} cells." if left_out else ""
    return grids, more


def _side(rows: pd.DataFrame) -> int:
    return min(int(rows["image_size"].iloc[0]), MOST_SIDE)


def _count_pixels(rows: pd.DataFrame) -> int:
    return GRID * ROWS * _side(rows) ** 2


def _spread(epochs: Sequence[int], most: int) -> list[int]:
    """The first, the last, and of those between as many as there may be."""
    chosen = np.linspace(0, len(epochs) - 1, min(most, len(epochs))).round().astype(int)
    return [int(epochs[place]) for place in dict.fromkeys(chosen)]


def _encode(file: str | None) -> str | None:
    """The upper rows of a run's picture as a data URI; None where there is none, or it cannot be read."""
    if file is None:
        return None
    try:
        picture = read_picture(file)
    except Exception:  # what a damaged picture raises is open-ended, and none may stop the report; figures name it
        return None
    buffer = io.BytesIO()
    image = Image.fromarray(picture[: picture.shape[0] // GRID * ROWS])
    image.thumbnail((GRID * MOST_SIDE, ROWS * MOST_SIDE))
    image.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
