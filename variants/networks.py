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
    the log-variance: sigma = exp(log_var / 2) > 0.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        sigma: SigmaHead = "linear",
        linear: Layer = nn.Linear,
        norm: Norm = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.body = nn.Sequential(
            nn.Flatten(), linear(prod(image_shape), 128), leaky_relu(), linear(128, 64), norm(64), leaky_relu()
        )
        self.mu_head = linear(64, latent_dim)
        self.sigma_head = linear(64, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> mu (B, Z), sigma (B, Z)."""
        h = self.body(x)
        raw = self.sigma_head(h)
        return self.mu_head(h), raw if self.sigma == "linear" else torch.exp(raw / 2)


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


class Discriminator(nn.Sequential):
    """D: one logit for a code, high where it takes the code for a draw from the prior. (B, Z) -> (B, 1)."""

    def __init__(self, latent_dim: int) -> None:
        widths = [latent_dim, 64, 128, 128, 64]
        hidden = [
            layer
            for d_in, d_out in pairwise(widths)
            for layer in (nn.Linear(d_in, d_out), leaky_relu(), nn.Dropout(0.3))
        ]
        super().__init__(*hidden, nn.Linear(widths[-1], 1))


class Mapping(nn.Sequential):
    """M: `depth` fully connected layers of width Z, as StyleGAN has them (paper, section 5.1). (B, Z) -> (B, Z)."""

    def __init__(self, latent_dim: int, depth: int) -> None:
        super().__init__(*(layer for _ in range(depth) for layer in (nn.Linear(latent_dim, latent_dim), leaky_relu())))
