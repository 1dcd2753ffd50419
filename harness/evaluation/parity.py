"""The staged Inception beside clean-fid's own code: its resize, its loader of the weights, its features.

Ours are faster and know where the file lies; they are checked against clean-fid's whenever the weights are staged.
"""

from pathlib import Path

import numpy as np
import torch

from harness.errors import InputError
from harness.evaluation.extractors import build_extractor
from harness.evaluation.resize import resize_to
from harness.protocol import load_protocol

SIDES = (28, 32, 64)  # of images, px
GREY_LEVELS = 2e-3  # that a resized pixel may differ by
RELATIVE = 1e-3  # of the largest feature, that a feature may differ by


def check_against_clean_fid(weights: Path) -> str:
    """Resize and featurise a few images of noise in both ways, on the CPU.

    Args: weights: the file as clean-fid names it, which its loader looks for.
    Returns: a sentence with the largest differences.
    Raises: InputError if they are larger than rounding, naming them: scores would not be clean-fid's.
    """
    from cleanfid.inception_torchscript import InceptionV3W  # noqa: PLC0415 (slow to import)
    from cleanfid.resize import build_resizer  # noqa: PLC0415

    random = np.random.default_rng(0)
    theirs, resize = InceptionV3W(str(weights.parent), download=False), build_resizer("clean")
    ours = build_extractor(load_protocol("clean", extractor_weights=weights), torch.device("cpu"))
    levels, features = 0.0, 0.0
    for side in SIDES:
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        expected = torch.from_numpy(resize(pixels)).permute(2, 0, 1)[None]
        levels = max(levels, (resize_to(image, 299, "clean") - expected).abs().max().item())
        with torch.no_grad():
            wanted = theirs(expected)
        features = max(features, ((ours(image)[0] - wanted).abs().max() / wanted.abs().max()).item())
    found = f"resized pixels differ by {levels:.1g} grey levels, features by {features:.1g} of the largest"
    if levels > GREY_LEVELS or features > RELATIVE:
        raise InputError(
            f"beside clean-fid's own code {found} (more than {GREY_LEVELS} and {RELATIVE}): scores would not be "
            "clean-fid's; is another version of clean-fid or PyTorch installed than those that pyproject.toml names?"
        )
    return f"checked against clean-fid: {found}"
