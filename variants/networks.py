"""The paper's networks: multilayer perceptrons over flattened images (widths: the authors' published procedure)."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SigmaHead = Literal["linear", "exp"]
Layer = Callable[[int, int], nn.Module]
Norm = Callable[[int], nn.Module]


def leaky_relu() -> nn.Module:
    # In place: the activations are large, and no layer before it needs its own output for the backward pass.
    return nn.LeakyReLU(0.2, inplace=True)


def draw_mask(n: int, width: int, keep: float) -> Tensor:
    """Ones with probability `keep`, else zeros, from torch's global random state: (n, width)."""
    return torch.empty(n, width).bernoulli_(keep)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) whose masks come from `draw_mask`.

    The trainer replaces it by draws that depend on the image's place in the global batch alone.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.draw_mask = draw_mask

    def forward(self, input: Tensor) -> Tensor:
        """(B, D) -> (B, D)."""
        if not self.training:
            return input
        mask = self.draw_mask(len(input), input.shape[1], 1 - self.p)
        return input * (mask / (1 - self.p)).to(input.dtype)


class EqualLinear(nn.Module):
    """y = x (gamma A)^T + gamma b with gamma = 1 / sqrt(D_in) and A drawn from N(0, 1) (paper, section 5.4)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.gamma = in_features**-0.5
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D_in) -> (B, D_out)."""
        return F.linear(x, self.gamma * self.weight, self.gamma * self.bias)


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
        linear: Layer = nn.Linear,
        norm: Norm = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.sigma, self.sigma_floor = sigma, sigma_floor
        self.body = nn.Sequential(
            nn.Flatten(), linear(prod(image_shape), 128), leaky_relu(), linear(128, 64), norm(64), leaky_relu()
        )
        self.mu_head = linear(64, latent_dim)
        self.sigma_head = linear(64, latent_dim)

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
        linear: Layer = nn.Linear,
        norm: Norm = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            linear(latent_dim, 64),
            leaky_relu(),
            linear(64, 128),
            norm(128),
            leaky_relu(),
            linear(128, prod(image_shape)),
            nn.Tanh(),
            nn.Unflatten(1, image_shape),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z) -> (B, C, S, S)."""
        return self.body(z)


class ImageDiscriminator(nn.Module):
    """Dis: one logit for an image, high where it takes the image for a real one. As wide as the encoder.

    Its hidden layers are the features Dis_l of VAE-GAN: l = 1 of 128, l = 2 of 64 activations.
    """

    n_hidden = 2

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        widths = [prod(image_shape), 128, 64]
        self.hidden = nn.ModuleList(nn.Sequential(nn.Linear(*pair), leaky_relu()) for pair in pairwise(widths))
        self.head = nn.Linear(64, 1)

    def features(self, x: Tensor, layer: int) -> Tensor:
        """The activations of hidden layer 1 or 2 for images (B, C, S, S): (B, 128) or (B, 64)."""
        h = x.flatten(1)
        for hidden in self.hidden[:layer]:
            h = hidden(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 1)."""
        return self.head(self.features(x, self.n_hidden))


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
