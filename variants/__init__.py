"""The systems that the harness compares: one file per row of the paper's tables, and their relatives."""

import sys
import traceback
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

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

    Raises: KeyError for a name that is neither, ImportError or TypeError for a module that is not there or cannot be
        imported, or a class that is not there or is no whole Variant.
    """
    if ":" not in name:
        return VARIANTS[name]
    module_name, _, class_name = name.partition(":")
    if not name.isascii() or not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ImportError(f"{name!r} is no name of a class, as package.module:Class")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    found = getattr(_import(module_name), class_name, None)
    if not isinstance(found, type) or not issubclass(found, Variant):
        raise TypeError(f"{module_name} has no class {class_name} that is a variants.Variant")
    if missing := sorted(found.__abstractmethods__):
        raise TypeError(f"{class_name} does not define {', '.join(missing)}, which each Variant must")
    if not is_dataclass(found.Options):
        raise TypeError(f"{class_name}.Options is no dataclass, as `@dataclass(frozen=True) class Options`")
    return found


def _import(module_name: str) -> ModuleType:
    """Raises: ImportError for whatever goes wrong, naming the line."""
    try:
        return import_module(module_name)
    except ImportError:
        raise
    except SyntaxError as error:
        raise ImportError(f"SyntaxError: {error}") from error
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in f.filename]
        where = "".join(f" ({frame.filename}, line {frame.lineno})" for frame in frames[:1])
        raise ImportError(f"{type(error).__name__}: {error}{where}") from error


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
