"""Sample grids: the same codes at every evaluation, so that a run's pictures show its training and nothing else."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.evaluation.images import to_pixels
from harness.evaluation.normalisation import evaluation_mode
from harness.files import replacing_file
from harness.protocol import Normalisation
from harness.seeding import build_generator
from variants import Variant

ROWS, COLUMNS = 8, 8


def save_samples(path: Path, variant: Variant, normalisation: Normalisation, seed: int) -> None:
    """64 images of prior codes as one PNG, written atomically.

    The codes are the first of a batch of 256, since in `batch` mode a picture depends on the batch that it is part of.
    """
    device = next(variant.parameters()).device
    z = torch.randn(256, variant.latent_dim, generator=build_generator(seed, "samples")).to(device)
    with evaluation_mode(variant, normalisation):
        grid = build_grid(to_pixels(variant.decode(z)[: ROWS * COLUMNS], "uint8").cpu())
    with replacing_file(path) as temporary:
        Image.fromarray(grid).save(temporary, format="PNG")


def build_grid(images: Tensor) -> np.ndarray:
    """(N, C, S, S) uint8 to one picture (R S, 8 S, 3) of R rows, row by row; grey is repeated, a last row filled up.

    Fewer than eight images make one row of N.
    """
    n, _, height, width = images.shape
    columns = min(n, COLUMNS)
    rows = -(-n // columns)
    tiles = images.new_zeros(rows * columns, 3, height, width)
    tiles[:n] = images
    tiles = tiles.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return tiles.reshape(rows * height, columns * width, 3).numpy()
