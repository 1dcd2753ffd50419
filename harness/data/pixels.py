"""Image files to pixels: as a viewer shows them, or as clean-fid reads them; cropped and resized to squares."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from harness.config import Crop

GREY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # EXIF's tag
BACKGROUND = "white"  # of what is transparent


@dataclass(frozen=True)
class Header:
    """Of an image file: whether it has one channel, is to be shown turned or mirrored, has transparent parts."""

    grey: bool
    turned: bool
    transparent: bool


def read_header(content: bytes) -> Header:
    """Without decoding the pixels. Of a damaged file nothing is true; whoever decodes it says what is wrong."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) != 1
            return Header(grey, turned, image.has_transparency_data)
    except Exception:  # PIL raises many kinds for damaged files
        return Header(False, False, False)


def decode_image(content: bytes, *, as_shown: bool) -> Tensor:
    """An image file's pixels: (C, H, W) uint8, one channel for a grey one; 16 bits become 8.

    Args: as_shown: turned as its EXIF orientation says, and what is transparent on white. Otherwise the orientation is
        ignored and an alpha channel dropped, as clean-fid and torchvision's loader do.
    Raises: ValueError for pixels of an unknown range; what PIL raises for damaged files.
    """
    with Image.open(io.BytesIO(content)) as file:
        image: Image.Image = file
        if as_shown and "exif" in file.info:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            pixels = (np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)
        elif image.mode in ("I", "F"):
            raise ValueError(f"its pixels are of mode {image.mode}, whose range is unknown; save it with 8 or 16 bits")
        else:
            mode = "L" if image.mode in GREY_MODES else "RGB"
            if as_shown and image.has_transparency_data:
                whole = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", whole.size, BACKGROUND), whole)
            # A conversion to the mode that it has would copy it.
            pixels = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def fit(images: Tensor, image_size: int, crop: Crop) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, S, S): `squeeze` changes the proportions, `center` cuts the central square out.

    The square's upper left corner is at ((H - s) // 2, (W - s) // 2), s being the shorter side.
    """
    height, width = images.shape[2:]
    if crop == "center" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[:, :, top : top + side, left : left + side]
    return resize(images, image_size)


def resize(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, S, S): bilinear with antialiasing, as the published procedure does."""
    if images.shape[2:] == (image_size, image_size):
        return images
    size, on_cpu = (image_size, image_size), images.device.type == "cpu"
    # Only CPUs have a kernel for bytes; it differs from rounded floats by one level at most.
    parts = [part if on_cpu else part.to(torch.float32) for part in images.split(4096)]
    resized = torch.cat([interpolate(part, size, mode="bilinear", antialias=True) for part in parts])
    return resized if resized.dtype == images.dtype else resized.round().clamp(0, 255).to(images.dtype)
