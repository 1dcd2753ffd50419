"""Images drawn from a trained variant: a folder of PNG files, and a picture of the first ones beside it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from harness.errors import InputError
from harness.evaluation.grids import COLUMNS, ROWS, build_grid
from harness.evaluation.images import draw_codes, to_pixels
from harness.evaluation.normalisation import evaluation_mode
from harness.evaluation.samplers import build_prior
from harness.fields import paper_batch_size
from harness.files import make_folder, replacing_file, replacing_folder
from harness.models.load import Trained, load_trained
from harness.terminal import Bar
from harness.training.checkpoint import Which

MAX_IMAGES = 1_000_000  # as many as six digits number
GRID = "grid.png"
SHOWN = ROWS * COLUMNS  # of a picture
KIND = "picture"  # as its text calls it, beside those of single images
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf")


def write_images(
    source: Path, n: int, seed: int, which: Which, out: Path | None = None, trust_code: bool = False
) -> Path:
    """Draw n images from a run or an export into `out`, `<run id>-samples` where it is None; 64 of them in `out`.png.

    Where `out` is itself a .png, it becomes that picture, and nothing else is written.

    Each file's text says which run, checkpoint and seed it is from. Returns: the folder, which holds only images, or
    the picture.
    Raises: InputError if there is no such model, for an n that makes no sense, if `out` holds anything but samples of
        this run, or if it cannot be written; DivergedError for images that are not finite.
    """
    if not 1 <= n <= MAX_IMAGES:
        raise InputError(f"-n {n} is no number of images; give 1 to {MAX_IMAGES:,}")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative; give 0 or more")
    kind = "" if out is None else out.suffix.lower()
    if kind in OTHER_PICTURES:
        raise InputError(f"--out {out}: pictures are written as PNG; name it {Path(str(out)).with_suffix('.png')}")
    if kind == ".png" and n > SHOWN:
        raise InputError(f"-n {n} is more than the {SHOWN} images of a picture; for a folder of them, --out FOLDER")
    trained = load_trained(source, which, trust_code=trust_code)
    run_id = trained.origin.run_id
    said = {"run_id": run_id, "checkpoint": trained.origin.checkpoint, "seed": str(seed)}
    images = (image for batch in draw_images(trained, n, seed) for image in batch)
    if out is not None and kind == ".png":
        _write_picture(out, [*images], said)
        return out
    folder = out or Path(f"{run_id}-samples")
    final = folder.resolve()
    grid = final.with_name(f"{final.name}.png")
    _require_own(folder, grid, run_id)
    with replacing_folder(folder) as new, Bar("images") as progress:
        task = progress.add_task(f"drawing {folder}", total=n)
        first: list[Tensor] = []
        for number, pixels in enumerate(images):
            if number < SHOWN:
                first.append(pixels)
            channels_last = pixels.permute(1, 2, 0).squeeze(2).numpy()
            Image.fromarray(channels_last).save(new / f"{number:06d}.png", pnginfo=_build_text(said))
            progress.update(task, completed=number + 1)
        _save_grid(first, new / GRID, said)
        (new / GRID).replace(grid)
    return folder


def _write_picture(picture: Path, images: list[Tensor], said: dict[str, str]) -> None:
    """In the place of nothing, or of an earlier picture of the same run. Raises: InputError for anything else there."""
    try:
        if os.path.lexists(picture) and not _is_of(picture, run_id=said["run_id"], kind=KIND):
            raise InputError(f"{picture} exists and is no picture of {said['run_id']}; choose another with --out")
        make_folder(picture.parent)
        with replacing_file(picture) as temporary:
            _save_grid(images, temporary, said)
    except OSError as error:
        raise InputError(f"cannot write {picture}: {error}; choose another with --out") from error


def _save_grid(images: list[Tensor], path: Path, said: dict[str, str]) -> None:
    grid = build_grid(torch.stack(images))
    Image.fromarray(grid).save(path, format="PNG", pnginfo=_build_text(said | {"kind": KIND}))


def _build_text(said: dict[str, str]) -> PngInfo:
    text = PngInfo()
    for key, value in said.items():
        text.add_text(key, value)
    return text


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
        if numbered and all(_is_of(file, run_id=run_id) for file in (*files, *([grid] if grid.exists() else []))):
            return
        wrong = f"{folder} or {grid} exists and is not of samples of {run_id} alone"
    except OSError as error:
        wrong = f"{folder} or {grid} exists and is not of samples of {run_id} ({error})"
    raise InputError(f"{wrong}; choose another with --out, or remove it first")


def _is_of(file: Path, **said: str) -> bool:
    """Whether a file is a PNG whose text says this."""
    with Image.open(file) as image:
        return isinstance(image, PngImageFile) and said.items() <= image.info.items()
