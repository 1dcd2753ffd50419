"""Images brought to an extractor's size, on the device, a batch at a time."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.data.pixels import resize as antialiased
from harness.protocol import Resize


def resize_to(images: Tensor, size: int, how: Resize) -> Tensor:
    """Images (B, C, H, W), uint8 or float32 in [0, 255], to (B, C, size, size) float32 in [0, 255].

    `clean`: clean-fid's (PIL's antialiased bicubic on float pixels, Parmar et al. 2022). `bilinear`: between pixels,
    without antialiasing, as the published procedure does. `antialiased`: bilinear, as images are prepared for training.
    `none`: as they are.
    """
    if how == "none" or images.shape[2:] == (size, size):
        return images.to(torch.float32)
    if how == "clean":
        return _clean(images, size)
    if how == "antialiased":
        return antialiased(images, size).to(torch.float32)
    return interpolate(images.to(torch.float32), (size, size), mode="bilinear", align_corners=False)


def _clean(images: Tensor, size: int) -> Tensor:
    """The clean resize is linear, so it is two products with fixed matrices, clamped."""
    vertical, horizontal = (_resize_matrix(n, size, images.device) for n in images.shape[2:])
    wide = images.to(torch.float32).flatten(0, 2) @ horizontal.T  # one product for all rows of all images
    return (vertical @ wide.view(*images.shape[:3], size)).clamp_(0, 255)


@lru_cache(maxsize=16)
def _resize_matrix(n: int, size: int, device: torch.device) -> Tensor:
    """(size, n): row i holds the weights of output pixel i."""
    identity = torch.eye(n, dtype=torch.float64)[None, None]  # in float32 the positions of the taps are too coarse
    return interpolate(identity, (size, n), mode="bicubic", antialias=True)[0, 0].to(device, torch.float32)
