"""Remedies for variance collapse (paper, sections 6.3 and 9): terms on the posterior, for any AAE variant.

They join the phase that updates the encoder, and cost one pass over (B, Z) numbers. Two further remedies are ways to
parametrise sigma, in networks.Encoder: `sigma=exp`, and `sigma_floor`, which rules the collapse out by construction.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.losses import KLDirection, gaussian_kl, log_variance_error


@dataclass(frozen=True)
class Remedies:
    """The terms and their weights; a weight of 0 leaves the term out.

    sigma_penalty * sum over Z of (E[sigma^2] + Var(mu) - 1)^2 asks sigma for what mu leaves of the prior's variance.
    Its gradient reaches sigma alone: through mu as well it would be met by spreading mu, and sigma collapse sooner.
    log_variance_penalty * E sum over Z of |log sigma^2| asks each sigma to be 1 and leaves mu alone (Rubenstein et al.
    2018, section 4); as a KL's, its gradient spikes on the signed head, so it wants sigma=exp too.
    kl_weight * KL, in `kl_direction`, in nats, asks each posterior to be the prior, at the price of what codes say
    about images; it wants sigma=exp, as the signed head's gradient spikes (see kld_loss).
    """

    sigma_penalty: float
    log_variance_penalty: float
    kl_weight: float
    kl_direction: KLDirection

    @property
    def active(self) -> bool:
        return self.sigma_penalty > 0 or self.log_variance_penalty > 0 or self.kl_weight > 0

    def __call__(self, mu: Tensor, sigma: Tensor) -> Tensor:
        """The sum of the active terms for a batch's mu and sigma, (B, Z) each."""
        loss = mu.new_zeros(())
        if self.sigma_penalty > 0:
            variance = sigma.float().square().mean(dim=0) + mu.detach().float().var(dim=0, correction=0)
            loss = loss + self.sigma_penalty * (variance - 1).square().sum()
        if self.log_variance_penalty > 0:
            loss = loss + self.log_variance_penalty * log_variance_error(sigma)
        if self.kl_weight > 0:
            loss = loss + self.kl_weight * gaussian_kl(mu, sigma, self.kl_direction)
        return loss
