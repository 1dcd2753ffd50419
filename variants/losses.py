"""The losses that the variants share: (B, ...) tensors to a float32 scalar, whatever the autocast."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

KLDirection = Literal["posterior_prior", "prior_posterior"]


class _AbsoluteError(torch.autograd.Function):
    """Sum of |x_hat - x|: the largest tensors of a step, so they are passed over as seldom as can be.

    Built of PyTorch's operations, forward and backward write three more of that size: a tenth of a whole step on a CPU.
    """

    generate_vmap_rule = True  # seeds are trained side by side under torch.vmap

    @staticmethod
    def forward(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        difference = x_hat.float() - x
        return torch.linalg.vector_norm(difference.flatten(1), 1, dim=1).sum(), difference

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (difference,) = ctx.saved_tensors
        return difference.sgn().mul_(gradient).to(ctx.dtype), None


def _absolute_error(x_hat: Tensor, x: Tensor) -> Tensor:
    summed, _ = _AbsoluteError.apply(x_hat, x)  # pyright: ignore[reportGeneralTypeIssues]
    return summed


def mean_absolute_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """|x_hat - x| averaged over B, C, H, W. x, the images (B, C, H, W), gets no gradient."""
    return _absolute_error(x_hat, x) / x.numel()


def pixel_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """|x_hat - x| summed over C, H, W, averaged over B: -log p(x|z) of a Laplace decoder, up to a constant."""
    return _absolute_error(x_hat, x) / len(x)


def real_loss(logits: Tensor) -> Tensor:
    """-E[log D], for logits (B, 1) that should say "real"; in nats.

    For the adversary this is the non-saturating loss (Goodfellow et al. 2014, section 3).
    """
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake_loss(logits: Tensor) -> Tensor:
    """-E[log(1 - D)], for logits (B, 1) that should say "fake"; in nats (paper, section 5.2)."""
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


def log_variance_error(sigma: Tensor) -> Tensor:
    """|log sigma^2| summed over Z, averaged over B (Rubenstein et al. 2018). Args: sigma: (B, Z), of either sign."""
    return sigma.float().square().log().abs().sum(dim=1).mean()


def mmd(z: Tensor, z_prior: Tensor) -> Tensor:
    """MMD^2 between two samples of n codes, unbiased, with the inverse multiquadratic kernels of WAE.

    k(a, b) = sum over s of C / (C + |a - b|^2), C = 2 Z s, s in 0.1, 0.2, 0.5, 1, 2, 5, 10 (Tolstikhin et al. 2018,
    section 4; scales as in their code). Its expectation is 0 for equal distributions, so a draw can be below 0.

    Args: z, z_prior: (n, Z), n >= 2.
    """
    z, z_prior = z.float(), z_prior.float()
    n, latent_dim = z.shape
    constants = [2 * latent_dim * scale for scale in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        # Squared distances as inner products: cdist's gradient is undefined between a code and itself.
        squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
        return torch.stack([constant / (constant + squared) for constant in constants]).sum(dim=0)

    with torch.autocast(z.device.type, enabled=False):  # which would take the inner products in lower precision
        within_z, within_prior = kernel(z, z), kernel(z_prior, z_prior)
        within = (within_z.sum() - within_z.trace() + within_prior.sum() - within_prior.trace()) / (n * (n - 1))
        return within - 2 * kernel(z, z_prior).mean()
