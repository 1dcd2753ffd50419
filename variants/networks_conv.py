"""DCGAN's architecture (Radford et al. 2016): stages of strided convolutions between an image and a map of 4 to 7 px.

The first stage's map has 64 channels, each further one's twice as many, up to 512. Fully connected layers start as the
mlp's do, so that mu and sigma, and the logits, do at any image size.
"""

from itertools import pairwise

from torch import nn

from variants.layers import Layers, leaky_relu


def count_stages(image_size: int) -> int:
    """How often this side halves before it is below 8 px: 3 at 32 px, 5 at 128."""
    return image_size.bit_length() - 3


IMAGE_SIZES = tuple(size for size in range(32, 129) if size % 2 ** count_stages(size) == 0)


def require_image_size(image_size: int) -> None:
    """Raises: ValueError for a side that does not halve to 4, 5, 6 or 7 px, or is outside 32 to 128 px."""
    if image_size not in IMAGE_SIZES:
        sizes = ", ".join(map(str, IMAGE_SIZES[:-1]))
        raise ValueError(
            f"image_size = {image_size} does not suit architecture = conv, which halves the side to 4 to 7 px: "
            f"it takes {sizes} or {IMAGE_SIZES[-1]} px"
        )


def build_encoder(image_shape: tuple[int, int, int], layers: Layers) -> tuple[nn.Sequential, int]:
    """Images (B, C, S, S) to the features (B, D) that the heads read. Returns: also D. The first stage has no norm.

    Raises: ValueError as `require_image_size`.
    """
    channels, smallest = _measure(image_shape)
    body: list[nn.Module] = []
    for number, pair in enumerate(pairwise(channels)):
        body += [layers.convolution(*pair), *([layers.norm_2d(pair[1])] if number else []), leaky_relu()]
    return nn.Sequential(*body, nn.Flatten()), channels[-1] * smallest**2


def build_decoder(image_shape: tuple[int, int, int], latent_dim: int, layers: Layers) -> nn.Sequential:
    """Codes (B, Z) to images (B, C, S, S) in [-1, 1]: the smallest map projected, then the stages backwards.

    Raises: ValueError as `require_image_size`.
    """
    channels, smallest = _measure(image_shape)
    widest = channels[-1]
    body = [layers.linear(latent_dim, widest * smallest**2), nn.Unflatten(1, (widest, smallest, smallest))]
    for pair in pairwise(reversed(channels)):
        body += [layers.norm_2d(pair[0]), nn.ReLU(inplace=True), layers.transposed_convolution(*pair)]
    return nn.Sequential(*body, nn.Tanh())


def build_discriminator(image_shape: tuple[int, int, int], layers: Layers) -> tuple[nn.Module, list[nn.Module], int]:
    """What brings images (B, C, S, S) into the first hidden layer's form, the hidden layers, and the last one's D.

    Raises: ValueError as `require_image_size`.
    """
    channels, smallest = _measure(image_shape)
    hidden = [nn.Sequential(layers.convolution(*pair), leaky_relu()) for pair in pairwise(channels)]
    return nn.Identity(), [*hidden], channels[-1] * smallest**2


def _measure(image_shape: tuple[int, int, int]) -> tuple[list[int], int]:
    """The numbers of channels from the image to the smallest map, and that map's side."""
    require_image_size(image_shape[1])
    stages = count_stages(image_shape[1])
    return [image_shape[0], *(min(64 * 2**stage, 512) for stage in range(stages))], image_shape[1] >> stages
