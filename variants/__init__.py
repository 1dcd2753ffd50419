"""The systems that the harness compares: one file per row of the paper's tables."""

from variants.aae import AAE
from variants.base import AutoEncoder, Phase, Variant
from variants.equal_linear import EqualLinearAAE
from variants.feature import Feature
from variants.kld_loss import KLDLoss
from variants.latent_mapping import LatentMapping
from variants.n_iter import NIter

VARIANTS: dict[str, type[Variant]] = {
    "aae": AAE,
    "latent_mapping": LatentMapping,
    "n_iter": NIter,
    "kld_loss": KLDLoss,
    "feature": Feature,
    "equal_linear": EqualLinearAAE,
}


def build(name: str, options: Variant.Options, image_shape: tuple[int, int, int], latent_dim: int) -> Variant:
    """The variant called `name`, freshly initialised from torch's global random state.

    Args: options: an instance of VARIANTS[name].Options; image_shape: (C, S, S).
    Raises: KeyError for an unknown name.
    """
    return VARIANTS[name](image_shape, latent_dim, options)


__all__ = ["VARIANTS", "AutoEncoder", "Phase", "Variant", "build"]
