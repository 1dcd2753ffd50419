"""What became of the posterior: its mu and sigma over the training set, the aggregated posterior, and its collapse.

Two collapses stand at opposite ends. In *variance collapse* (the paper's finding, section 6.3) sigma -> 0: the encoder
turns deterministic and the model into a plain autoencoder. In *posterior collapse* q(z|x) = p(z): codes say nothing.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.data.sets import TrainingSet
from harness.evaluation.normalisation import batch_sizes, evaluation_mode
from harness.launch.processes import Processes
from harness.protocol import Reading
from harness.seeding import build_generator
from harness.sending import send
from variants import AutoEncoder, Variant

Collapse = Literal["none", "variance", "posterior", "no posterior"]
MU_EDGES = torch.linspace(-4, 4, 65, dtype=torch.float64)
SIGMA_EDGES = torch.linspace(0, 2, 65, dtype=torch.float64)


@dataclass(frozen=True)
class Posterior:
    """mu and sigma (N, Z) of the N training images in the data's order; mean |G(z) - x|, z ~ q(z|x), (N,). float64."""

    mu: Tensor
    sigma: Tensor
    reconstruction_l1: Tensor


def compute_posterior(
    variant: Variant, data: TrainingSet, reading: Reading, seed: int, processes: Processes
) -> Posterior | None:
    """The posterior of every training image, on each process; None for a variant that has none.

    Encoder and decoder normalise as the reading says, over batches that are the same whatever the number of processes.
    """
    if not isinstance(variant, AutoEncoder):
        return None
    batches = torch.arange(len(data), device=data.images.device).split(batch_sizes(len(data), reading.batch_size))
    nothing = torch.empty(0, variant.latent_dim, device=processes.device)
    parts = [(nothing, nothing, nothing[:, 0])]  # the share of a process without a batch
    with evaluation_mode(variant, reading.normalisation):
        for number in processes.share(len(batches)):
            x = data.batch(batches[number], processes.device)
            mu, sigma = variant.posterior(x)
            eps = send(torch.randn(mu.shape, generator=build_generator(seed, "codes", number)), processes.device)
            parts.append((mu, sigma, (variant.decode(mu + sigma * eps) - x).abs().flatten(1).mean(dim=1)))
    return Posterior(*(processes.concatenate(torch.cat(tensors)).double() for tensors in zip(*parts, strict=True)))


def compute_diagnostics(mu: Tensor, sigma: Tensor) -> dict[str, object]:
    """Diagnostics of q(z|x) = N(mu, sigma^2) over N images, as `posterior/<name>` values.

    - mu_mean, mu_std, sigma_mean, sigma_std: of mu and |sigma| over all images and dimensions; `*_per_dim`: lists (Z,).
    - noise_share: E[sigma^2] / (Var(mu) + E[sigma^2]), the part of the codes' variance that does not depend on x.
    - active_units: dimensions with Var(mu) > 0.01 (Burda et al. 2016).
    - kl: KL(q(z|x) || p), averaged over images, nats.
    - prior_kl: KL of the aggregated posterior's Gaussian fit to p, nats; 0 if the codes look like the prior's.
    - collapse: see `classify_collapse`.
    - mu_histogram, sigma_histogram: counts in 64 bins; what lies outside counts in the outermost ones.

    Args: mu, sigma: (N, Z), N >= 2; sigma may be negative.
    """
    sigma = sigma.abs()
    variance = sigma.square()
    mu_variance, noise = mu.var(dim=0, correction=0), variance.mean(dim=0)
    noise_share = (noise.sum() / (mu_variance.sum() + noise.sum())).item()
    tiny = torch.finfo(torch.float64).tiny  # keeps the KL of a sigma of exactly 0 finite: 354 nats a dimension
    kl = (mu.square() + variance - 1 - variance.clamp(min=tiny).log()).sum(dim=1).mean() / 2
    values: dict[str, object] = {
        "mu_mean": mu.mean().item(),
        "mu_std": mu.std(correction=0).item(),
        "sigma_mean": sigma.mean().item(),
        "sigma_std": sigma.std(correction=0).item(),
        "noise_share": noise_share,
        "active_units": int((mu_variance > 0.01).sum()),
        "kl": kl.item(),
        "prior_kl": _gaussian_fit_kl(mu, sigma),
        "collapse": classify_collapse(noise_share),
        "mu_mean_per_dim": mu.mean(dim=0).tolist(),
        "mu_std_per_dim": mu_variance.sqrt().tolist(),
        "sigma_mean_per_dim": sigma.mean(dim=0).tolist(),
        "sigma_std_per_dim": sigma.std(dim=0, correction=0).tolist(),
        "mu_histogram": _histogram(mu, MU_EDGES),
        "sigma_histogram": _histogram(sigma, SIGMA_EDGES),
    }
    return {f"posterior/{name}": value for name, value in values.items()}


def classify_collapse(noise_share: float) -> Collapse:
    """`variance` where less than 5 % of the codes' variance is noise, `posterior` where more than 95 % is, else `none`.

    5 % noise means |sigma| of about 0.22 where the codes have the prior's unit variance.
    """
    if noise_share < 0.05:
        return "variance"
    return "posterior" if noise_share > 0.95 else "none"


def aggregate_covariance(mu: Tensor, sigma: Tensor) -> Tensor:
    """Of the aggregated posterior: Cov(mu) + diag(E[sigma^2]), (Z, Z). Args: mu, sigma: (N, Z)."""
    return torch.cov(mu.T, correction=0).reshape(2 * mu.shape[1:]) + torch.diag(sigma.square().mean(dim=0))


def _gaussian_fit_kl(mu: Tensor, sigma: Tensor) -> float:
    """KL(N(m, S) || N(0, I)) with m = E[mu] and S the aggregated posterior's covariance, nats."""
    mean, covariance = mu.mean(dim=0), aggregate_covariance(mu, sigma)
    log_values = torch.linalg.eigvalsh(covariance).clamp(min=torch.finfo(torch.float64).tiny).log()
    return (covariance.trace() + mean.square().sum() - len(mean) - log_values.sum()).item() / 2


def _histogram(values: Tensor, edges: Tensor) -> dict[str, list[float] | list[int]]:
    inside = values.flatten().clamp(edges[0].item(), edges[-1].item())
    return {"edges": edges.tolist(), "counts": torch.histogram(inside, edges).hist.long().tolist()}
