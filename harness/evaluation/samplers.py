"""Distributions of codes to decode: the prior, or a fit of the aggregated posterior.

If samples from a fit of the codes that the encoder really uses score better than prior samples, the mismatch between
prior and aggregated posterior is at fault; if not, the decoder is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.config import Sampler
from harness.seeding import build_generator
from harness.sending import send

COMPONENTS = 10
MAX_CODES = 10_000  # codes that the mixture is fitted to


@dataclass(frozen=True)
class CodeDistribution:
    """A mixture of K Gaussians: weights (K,), means (K, Z), Cholesky factors of the covariances (K, Z, Z); float32."""

    weights: Tensor
    means: Tensor
    factors: Tensor

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, Z) on the CPU."""
        return self.place(*self.draw_noise(n, generator))

    def draw_noise(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Standard normal draws (n, Z) and the component of each (n,), on the CPU: what a code is made of."""
        eps = torch.randn(n, self.means.shape[1], generator=generator)
        if len(self.weights) == 1:
            return eps, torch.zeros(n, dtype=torch.int64)
        return eps, torch.multinomial(self.weights, n, replacement=True, generator=generator)

    def place(self, eps: Tensor, which: Tensor) -> Tensor:
        """The codes of such draws, (n, Z), where they and the distribution are."""
        if len(self.weights) == 1:  # the prior: choosing components takes longer than all the rest
            return self.means[0] + eps @ self.factors[0].T
        return self.means[which] + (self.factors[which] @ eps[:, :, None])[:, :, 0]

    def to(self, device: torch.device) -> "CodeDistribution":
        return CodeDistribution(*(send(tensor, device) for tensor in (self.weights, self.means, self.factors)))


def build_prior(latent_dim: int) -> CodeDistribution:
    """N(0, I)."""
    return CodeDistribution(torch.ones(1), torch.zeros(1, latent_dim), torch.eye(latent_dim)[None])


def fit_codes(sampler: Sampler, mu: Tensor, sigma: Tensor, seed: int) -> CodeDistribution:
    """Fit the aggregated posterior: codes mu + sigma * eps of all images (N, Z).

    `gaussian` has their mean and covariance; `gmm` is a mixture of 10 Gaussians by expectation maximisation
    (scikit-learn) on 10,000 of them.
    """
    if sampler == "prior":
        return build_prior(mu.shape[1])
    generator = build_generator(seed, "codes")
    z = mu + sigma * torch.randn(mu.shape, dtype=mu.dtype, generator=generator)
    if sampler == "gaussian":
        covariances, means, weights = torch.cov(z.T).reshape(1, *z.T.shape[:1] * 2), z.mean(dim=0)[None], torch.ones(1)
    else:
        from sklearn.mixture import GaussianMixture  # noqa: PLC0415 (slow to import)

        chosen = z[torch.randperm(len(z), generator=generator)[:MAX_CODES]]
        components = min(COMPONENTS, len(chosen))
        mixture = GaussianMixture(components, random_state=seed % 2**32).fit(chosen.numpy())
        covariances, means, weights = (
            torch.as_tensor(array) for array in (mixture.covariances_, mixture.means_, mixture.weights_)
        )
    return CodeDistribution(weights.float(), means.float(), _factorise(covariances).float())


def _factorise(covariances: Tensor) -> Tensor:
    """Matrices F with F F^T the covariances (K, Z, Z): Cholesky's, or, where fewer codes than dimensions leave one
    singular, the eigenvectors times the roots of the eigenvalues.
    """
    factors, failed = torch.linalg.cholesky_ex(covariances)
    if not failed.any():
        return factors
    values, vectors = torch.linalg.eigh(covariances)
    return vectors * values.clamp(min=0).sqrt()[:, None, :]
