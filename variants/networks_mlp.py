"""The paper's architecture: multilayer perceptrons over flattened images (widths: the authors' published procedure)."""

from math import prod

from torch import nn

from variants.layers import Layers, leaky_relu


def build_encoder(image_shape: tuple[int, int, int], layers: Layers) -> tuple[nn.Sequential, int]:
    """Images (B, C, S, S) to the features (B, D) that the heads read. Returns: also D."""
    body = nn.Sequential(
        nn.Flatten(),
        layers.linear(prod(image_shape), 128),
        leaky_relu(),
        layers.linear(128, 64),
        layers.norm_1d(64),
        leaky_relu(),
    )
    return body, 64


def build_decoder(image_shape: tuple[int, int, int], latent_dim: int, layers: Layers) -> nn.Sequential:
    """Codes (B, Z) to images (B, C, S, S) in [-1, 1]."""
    return nn.Sequential(
        layers.linear(latent_dim, 64),
        leaky_relu(),
        layers.linear(64, 128),
        layers.norm_1d(128),
        leaky_relu(),
        layers.linear(128, prod(image_shape)),
        nn.Tanh(),
        nn.Unflatten(1, image_shape),
    )


def build_discriminator(image_shape: tuple[int, int, int], layers: Layers) -> tuple[nn.Module, list[nn.Module], int]:
    """What brings images (B, C, S, S) into the first hidden layer's form, the hidden layers, and the last one's D."""
    hidden = [nn.Sequential(layers.linear(*pair), leaky_relu()) for pair in ((prod(image_shape), 128), (128, 64))]
    return nn.Flatten(), [*hidden], 64
