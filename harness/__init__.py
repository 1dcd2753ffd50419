"""One run: configuration, data, training, evaluation, records; and `load`, for what it has trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # `import harness` is instant: torch is imported when something is loaded
    import torch

    from variants import Variant

__version__ = "0.1.0"  # a copied tree knows it too, which is not installed


def load(
    path: str | Path,
    checkpoint: Literal["best", "latest"] = "best",
    device: "str | torch.device" = "cpu",
    trust_code: bool = False,
) -> "Variant":
    """A trained variant, from a run folder or an export: in eval mode, its parameters without gradients.

        model = harness.load("runs/aae-digits-32px-seed0-0123456789ab")
        images = model.decode(model.sample_prior(64))  # (64, C, S, S) in [-1, 1]
        mu, sigma = model.posterior(images)            # (64, Z) each, where the variant has an encoder

    BatchNorm uses its running statistics here. A run's own scores do so under the protocol `clean`, but not under
    `paper`; `aaebench sample` draws as they do. Where a run has averaged the weights of its decoder, these are loaded.

    A variant of somebody's own (package.module:Class) is code, which is imported only with `trust_code`, from the
    working folder on, and never from the run's folder itself.

    Args: checkpoint: of a run; an export holds one. Without an export's discriminators there is no training it further.
    Raises: harness.errors.InputError if there is no such checkpoint, or it is damaged.
    """
    from harness.models.load import load_trained  # noqa: PLC0415

    return load_trained(Path(path), checkpoint, device, trust_code).variant
