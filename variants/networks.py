"""The networks, in either architecture: their bodies are in networks_mlp (the paper's) and networks_conv (DCGAN's)."""

from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from variants import networks_conv, networks_mlp
from variants.layers import PLAIN, Dropout, Layers, leaky_relu

SigmaHead = Literal["linear", "exp"]
Architecture = Literal["mlp", "conv"]


class Bodies(Protocol):
    """What a module that describes an architecture offers; images are (B, C, S, S), image_shape is (C, S, S)."""

    def build_encoder(self, image_shape: tuple[int, int, int], layers: Layers) -> tuple[nn.Sequential, int]: ...

    def build_decoder(self, image_shape: tuple[int, int, int], latent_dim: int, layers: Layers) -> nn.Sequential: ...

    def build_discriminator(
        self, image_shape: tuple[int, int, int], layers: Layers
    ) -> tuple[nn.Module, list[nn.Module], int]: ...


BODIES: dict[Architecture, Bodies] = {"mlp": networks_mlp, "conv": networks_conv}


class Encoder(nn.Module):
    """mu(x) and sigma(x) of q(z|x) = N(mu, sigma^2).

    The `linear` head gives sigma as published: unbounded and signed, only its square counts. The `exp` head reads
    the log-variance: sigma = exp(log_var / 2) > 0. A floor keeps |sigma| above it: sqrt(sigma^2 + floor^2).
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        sigma: SigmaHead = "linear",
        sigma_floor: float = 0.0,
        layers: Layers = PLAIN,
        architecture: Architecture = "mlp",
    ) -> None:
        super().__init__()
        self.sigma, self.sigma_floor = sigma, sigma_floor
        self.body, n_features = BODIES[architecture].build_encoder(image_shape, layers)
        self.mu_head = layers.linear(n_features, latent_dim)
        self.sigma_head = layers.linear(n_features, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> mu (B, Z), sigma (B, Z)."""
        h = self.body(x)
        sigma = self.sigma_head(h)
        if self.sigma == "exp":
            sigma = torch.exp(sigma / 2)
        if self.sigma_floor > 0:
            sigma = torch.sqrt(sigma.square() + self.sigma_floor**2)
        return self.mu_head(h), sigma


class Decoder(nn.Module):
    """G: codes to images in [-1, 1]."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        layers: Layers = PLAIN,
        architecture: Architecture = "mlp",
    ) -> None:
        super().__init__()
        self.body = BODIES[architecture].build_decoder(image_shape, latent_dim, layers)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, S, S)."""
        return self.body(z)


class ImageDiscriminator(nn.Module):
    """Dis: one logit for an image, high where it takes the image for a real one. As wide as the encoder.

    Its hidden layers are the features Dis_l of VAE-GAN: in the mlp l = 1 of 128 and l = 2 of 64 activations; in conv a
    map for each stage, l = 1 of 64 channels and half the image's side, l = 2 of 128 and a quarter.
    """

    n_feature_layers = 2  # that every architecture has

    def __init__(self, image_shape: tuple[int, int, int], architecture: Architecture = "mlp") -> None:
        super().__init__()
        self.entry, hidden, n_features = BODIES[architecture].build_discriminator(image_shape, PLAIN)
        self.hidden = nn.ModuleList(hidden)
        self.head = nn.Linear(n_features, 1)

    def features(self, x: Tensor, layer: int) -> Tensor:
        """The activations of hidden layer 1, 2, ... for images (B, C, S, S): (B, D), or maps (B, C', S', S')."""
        h = self.entry(x)
        for hidden in self.hidden[:layer]:
            h = hidden(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 1)."""
        return self.head(self.features(x, len(self.hidden)).flatten(1))


class Discriminator(nn.Sequential):
    """D: one logit for a code, high where it takes the code for a draw from the prior. (B, Z) -> (B, 1)."""

    def __init__(self, latent_dim: int) -> None:
        widths = [latent_dim, 64, 128, 128, 64]
        hidden = [
            layer for d_in, d_out in pairwise(widths) for layer in (nn.Linear(d_in, d_out), leaky_relu(), Dropout(0.3))
        ]
        super().__init__(*hidden, nn.Linear(widths[-1], 1))


class Mapping(nn.Sequential):
    """M: `depth` fully connected layers of width Z, as StyleGAN has them (paper, section 5.1). (B, Z) -> (B, Z)."""

    def __init__(self, latent_dim: int, depth: int) -> None:
        super().__init__(*(layer for _ in range(depth) for layer in (nn.Linear(latent_dim, latent_dim), leaky_relu())))
