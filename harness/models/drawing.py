"""Images drawn from a trained variant: a folder of PNG files, and a picture of the first ones beside it."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from rich.progress import Progress
from torch import Tensor

from harness.errors import InputError
from harness.evaluation.grids import COLUMNS, ROWS, build_grid
from harness.evaluation.images import draw_codes, to_pixels
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.samplers import build_prior
from harness.fields import paper_batch_size
from harness.files import replacing_folder
from harness.models.load import Trained, load_trained
from harness.terminal import console
from harness.training.checkpoint import Which

MAX_IMAGES = 1_000_000  # as many as six digits number
GRID = "grid.png"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


def write_images(
    source: Path, n: int, seed: int, which: Which, out: Path | None = None, trust_code: bool = False
) -> Path:
    """Draw n images from a run or an export into `out`, `<run id>-samples` where it is None; 64 of them in `out`.png.

    Each file's text says which run, checkpoint and seed it is from. Returns: the folder, which holds only images.
    Raises: InputError if there is no such model, for an n that makes no sense, if `out` holds anything but samples of
        this run, or if it cannot be written; DivergedError for images that are not finite.
    """
    if not 1 <= n <= MAX_IMAGES:
        raise InputError(f"-n {n} is no number of images; give 1 to {MAX_IMAGES:,}")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative; give 0 or more")
    if out is not None and out.suffix.lower() in PICTURES:
        raise InputError(
            f"--out {out} is a picture's name, and a folder is written; name it {out.with_suffix('')}, and "
            f"{out.with_suffix('.png')} beside it shows the first {ROWS * COLUMNS}"
        )
    trained = load_trained(source, which, trust_code=trust_code)
    run_id = trained.origin.run_id
    folder = out or Path(f"{run_id}-samples")
    final = folder.resolve()
    grid = final.with_name(f"{final.name}.png")
    _require_own(folder, grid, run_id)
    text = PngInfo()
    for key, value in {"run_id": run_id, "checkpoint": trained.origin.checkpoint, "seed": seed}.items():
        text.add_text(key, str(value))
    with replacing_folder(folder) as new, Progress(console=console) as progress:
        task = progress.add_task(f"drawing {folder}", total=n)
        first: list[Tensor] = []
        for number, pixels in enumerate(image for batch in draw_images(trained, n, seed) for image in batch):
            if number < ROWS * COLUMNS:
                first.append(pixels)
            channels_last = pixels.permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(channels_last).save(new / f"{number:06d}.png", pnginfo=text)
            progress.update(task, completed=number + 1)
        Image.fromarray(build_grid(torch.stack(first))).save(new / GRID, pnginfo=text)
        (new / GRID).replace(grid)
    return folder


def draw_images(trained: Trained, n: int, seed: int) -> Iterator[Tensor]:
    """The first n of an endless sequence of images, of which image i follows from (seed, i): (B, C, S, S) uint8.

    They are normalised as the run's protocol says, in its batches, each drawn whole, as its images may depend on one
    another. With the run's own seed these are the images that its scores are of, but for a last, smaller batch there.
    """
    variant, protocol = trained.variant, trained.protocol
    size = protocol.batch_size or paper_batch_size(trained.config["image_size"])
    for first in range(0, n, size):
        z = draw_codes(build_prior(variant.latent_dim), seed, "evaluation", first, first + size)
        with evaluation_mode(variant, protocol.normalisation):
            x = variant.decode(z)
        yield to_pixels(x, "uint8")[: n - first]


def _require_own(folder: Path, grid: Path, run_id: str) -> None:
    """Raises: InputError for anything that samples of this run may not replace."""
    try:
        files = [*folder.iterdir()] if folder.exists() else []
        numbered = all(re.fullmatch(r"\d{6}\.png", file.name) for file in files)
        if numbered and all(_is_from(file, run_id) for file in (*files, *([grid] if grid.exists() else []))):
            return
        wrong = f"{folder} or {grid} exists and is not of samples of {run_id} alone"
    except OSError as error:
        wrong = f"{folder} or {grid} exists and is not of samples of {run_id} ({error})"
    raise InputError(f"{wrong}; choose another with --out, or remove it first")


def _is_from(file: Path, run_id: str) -> bool:
    with Image.open(file) as image:
        return isinstance(image, PngImageFile) and image.info.get("run_id") == run_id
