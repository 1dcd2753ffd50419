"""The systems that the harness compares: one file per row of the paper's tables, and their relatives."""

import sys
from importlib import import_module
from pathlib import Path

from variants.aae import AAE
from variants.base import AutoEncoder, Phase, Variant
from variants.beta_vae import BetaVAE
from variants.combined import Combined
from variants.dfc_vae import DFCVAE
from variants.equal_linear import EqualLinearAAE
from variants.feature import Feature
from variants.gan import GAN
from variants.kld_loss import KLDLoss
from variants.latent_mapping import LatentMapping
from variants.n_iter import NIter
from variants.networks import Architecture
from variants.vae import VAE
from variants.vae_gan import VAEGAN
from variants.wae_mmd import WAEMMD

VARIANTS: dict[str, type[Variant]] = {
    "aae": AAE,
    "latent_mapping": LatentMapping,
    "n_iter": NIter,
    "kld_loss": KLDLoss,
    "feature": Feature,
    "equal_linear": EqualLinearAAE,
    "combined": Combined,
    "vae": VAE,
    "beta_vae": BetaVAE,
    "gan": GAN,
    "vae_gan": VAEGAN,
    "dfc_vae": DFCVAE,
    "wae_mmd": WAEMMD,
}


def load_variant(name: str) -> type[Variant]:
    """The class of a variant: one of VARIANTS, or a user's own as `package.module:Class`, from the working folder on.

    Raises: KeyError for a name that is neither, ImportError or TypeError for a module or class that is not there or is
        no Variant.
    """
    if ":" not in name:
        return VARIANTS[name]
    module_name, _, class_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found = getattr(import_module(module_name), class_name, None)
    if not isinstance(found, type) or not issubclass(found, Variant):
        raise TypeError(f"{module_name} has no class {class_name} that is a variants.Variant")
    return found


def build(
    name: str,
    options: Variant.Options,
    image_shape: tuple[int, int, int],
    latent_dim: int,
    architecture: Architecture = "mlp",
) -> Variant:
    """The variant called `name`, freshly initialised from torch's global random state.

    Args: options: an instance of the variant's Options; image_shape: (C, S, S).
    Raises: as `load_variant`; ValueError for an image that the architecture cannot take.
    """
    return load_variant(name)(image_shape, latent_dim, options, architecture)


__all__ = ["VARIANTS", "Architecture", "AutoEncoder", "Phase", "Variant", "build", "load_variant"]
