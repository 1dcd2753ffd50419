"""The losses that the variants share: (B, ...) tensors to a float32 scalar, whatever the autocast."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

KLDirection = Literal["posterior_prior", "prior_posterior"]


def real_loss(logits: Tensor) -> Tensor:
    """-E[log D], for logits (B, 1) that should say "from the prior"; in nats.

    For the adversary this is the non-saturating loss (Goodfellow et al. 2014, section 3).
    """
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake_loss(logits: Tensor) -> Tensor:
    """-E[log(1 - D)], for logits (B, 1) that should say "from the posterior"; in nats (paper, section 5.2)."""
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def gaussian_kl(mean: Tensor, sigma: Tensor, direction: KLDirection = "posterior_prior") -> Tensor:
    """KL between q = N(mean, sigma^2) and p = N(0, I), summed over Z, averaged over B, in nats.

    `posterior_prior` is KL(q || p) (Kingma & Welling 2014, appendix B), `prior_posterior` is KL(p || q), as section 5.2
    of the paper writes it; it diverges as sigma -> 0.

    Args: mean, sigma: (B, Z); sigma may be negative, its square counts.
    Raises: ValueError if the shapes differ.
    """
    if mean.shape != sigma.shape:
        raise ValueError(f"mean {tuple(mean.shape)} and sigma {tuple(sigma.shape)} differ in shape")
    mean, variance = mean.float(), sigma.float().square()
    if direction == "posterior_prior":
        kl = (mean.square() + variance - 1 - variance.log()) / 2
    else:
        kl = ((1 + mean.square()) / variance - 1 + variance.log()) / 2
    return kl.sum(dim=1).mean()
