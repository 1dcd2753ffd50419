"""Sample grids over the epochs of a training, as the report's sliders show them: every cell beside the others."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from results.read.collect import Collection
from results.show.figures.samples import GRID, find_pictures, first_seed, read_picture
from results.show.figures.style import split_settings

ROWS = 3  # of a picture's eight that are shown
MOST_FRAMES = 240  # in a report, so that its file stays small: some 5 kB each
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
    each = max(2, MOST_FRAMES // max(1, sum(group["cell"].nunique() for _, _, group in settings)))
    grids, left = [], MOST_FRAMES
    for name, _, group in settings:
        files = first_seed(group).drop_duplicates(["cell", "epoch"]).set_index(["cell", "epoch"])["picture"]
        epochs = _spread(sorted(group["epoch"].unique()), each)
        cells = list(group["cell"].unique())[: left // len(epochs)]
        left -= len(cells) * len(epochs)
        frames = [(cell, [_encode(files.get((cell, epoch))) for epoch in epochs]) for cell in cells]
        side = next((int(size) for size in group["image_size"]), 0)
        if any(frame for _, line in frames for frame in line):
            grids.append(Grids(name, epochs, frames, GRID * side, ROWS * side))
    return grids, more


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
    Image.fromarray(picture[: picture.shape[0] // GRID * ROWS]).save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
