"""What images are scored against: statistics of real images, computed once, and what real images score themselves."""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from filelock import SoftFileLease, Timeout
from safetensors import SafetensorError
from torch import Tensor

from harness.data.cache import (
    CannotStoreError,
    Entry,
    acquire_lease,
    cache_folder,
    keep_in_memory,
    load_entry,
    read_shared,
    store,
)
from harness.errors import DivergedError
from harness.evaluation.extractors import Extractor
from harness.evaluation.images import NumberedImages
from harness.evaluation.manifold import NEIGHBOURS, compute_manifold_scores, count_duplicates, neighbour_radii
from harness.evaluation.scores import (
    extrapolate_fid,
    frechet_distance,
    frechet_distance_of_few,
    inception_score,
    kernel_distance,
    matrix_square_root,
)
from harness.evaluation.statistics import GROUPS, ImageStatistics, Moments, gather_statistics
from harness.launch.processes import Processes
from harness.protocol import STATISTICS_VERSION
from harness.seeding import build_generator

logger = logging.getLogger(__name__)
T = TypeVar("T")
Scores = dict[str, float]
POLL_SECONDS = 5
WHAT_DUPLICATES_DO = "they shrink the balls of precision, recall, density and coverage"
FEWEST_IN_SPLITS = 100  # images: ten splits of a few each score next to nothing


@dataclass(frozen=True)
class Reference:
    """Moments of the real images with the square root of their covariance; features of the first ones and the radii of
    their neighbourhoods (none if there are too few); the noise floor; how many of the first images are `duplicates`.

    The floor is what real images score against real images: `split_half`, one half of them against the other, and
    `train_test`, the other split, where there is one. A score below it says nothing.
    """

    moments: Moments
    root: Tensor
    features: Tensor
    radii: Tensor | None
    floor: dict[str, Scores]
    duplicates: int = 0

    def score(self, fake: ImageStatistics, device: torch.device) -> Scores:
        """Every score that the statistics of n images allow.

        `fid` and `kid` with `kid_stderr`; `inception_score` in one split, and in ten with their standard deviation,
        where the extractor has classes; `precision`, `recall`, `density`, `coverage` of more than k images;
        `fid_infinity` of 12 times as many images as features; the ten splits of 100 images or more.
        """
        scores = {**self._frechet(fake, device), **self._neighbours(fake, device), **_class_scores(fake.classes)}
        for name, value in scores.items():
            if not math.isfinite(value):
                raise DivergedError(f"the {name} is {value}")
        return scores

    def _frechet(self, fake: ImageStatistics, device: torch.device) -> Scores:
        real, root = self.moments.to(device), self.root.to(device)
        if len(fake.features) == fake.n < len(self.moments.mean):
            return {"fid": frechet_distance_of_few(real, fake.features.to(device), root)}
        if len(fake.groups) < GROUPS:
            return {"fid": frechet_distance(real, fake.moments().to(device), root)}
        growing = fake.growing()
        distances = [frechet_distance(real, moments.to(device), root) for moments in growing]
        return {"fid": distances[-1], "fid_infinity": extrapolate_fid([moments.n for moments in growing], distances)}

    def _neighbours(self, fake: ImageStatistics, device: torch.device) -> Scores:
        real, features = self.features.to(device), fake.features.to(device)
        if not len(real):  # of statistics that somebody gave
            return {}
        kid, stderr = kernel_distance(real, features, build_generator(0, "kid"))
        scores = {"kid": kid} if stderr is None else {"kid": kid, "kid_stderr": stderr}
        if self.radii is not None and len(features) > NEIGHBOURS:
            scores |= compute_manifold_scores(real, features, real_radii=self.radii.to(device))
        return scores


def _class_scores(classes: Tensor) -> Scores:
    probabilities, negative_entropies, counts = classes[:, :-2], classes[:, -2], classes[:, -1]
    if not counts.any() or not probabilities.shape[1]:
        return {}
    whole, _ = inception_score(*(sums.sum(0, keepdim=True) for sums in (probabilities, negative_entropies, counts)))
    if counts.sum() < FEWEST_IN_SPLITS:
        return {"inception_score": whole}
    mean, std = inception_score(probabilities, negative_entropies, counts)
    return {"inception_score": whole, "inception_score_10": mean, "inception_score_10_std": std}


def build_reference(real: ImageStatistics, device: torch.device) -> Reference:
    """A reference without a floor, on the device."""
    moments, enough = real.moments().to(device), len(real.features) > NEIGHBOURS
    features = real.features.to(device)
    radii = neighbour_radii(features) if enough else None
    return Reference(moments, matrix_square_root(moments.covariance), features, radii, {})


def load_reference(
    images: NumberedImages,
    other_split: NumberedImages | None,
    content: str,
    extractor: Extractor,
    autocast: str,
    batch_size: int,
    processes: Processes,
) -> Reference | None:
    """The reference of a set of images, from the cache or computed by all processes.

    Args: content: the checksums of the images and of the other split, the floor's.
    Returns: the reference, on its device, on the main process, which scores, and None on the others.
    """
    sizes = (len(images), 0 if other_split is None else len(other_split))
    key = (content, sizes, extractor.sha256, extractor.resizing, autocast, STATISTICS_VERSION)
    digest = hashlib.sha256(repr(key).encode()).hexdigest()
    path = cache_folder() / "statistics" / f"{extractor.name}-{digest[:20]}.safetensors"

    def gather() -> tuple[ImageStatistics, ImageStatistics | None]:
        other = None if other_split is None else gather_statistics(other_split, extractor, processes, batch_size)
        return gather_statistics(images, extractor, processes, batch_size), other

    entry = cached_together(path, processes, gather, lambda gathered: _to_entry(*gathered, processes.device))
    return None if entry is None else _from_entry(*entry, processes.device)


def cached_together(
    path: Path, processes: Processes, gather: Callable[[], T], finish: Callable[[T], Entry]
) -> Entry | None:
    """`cached` for an entry that all processes gather together and the main one finishes.

    While another job is at it, the processes look again every few seconds, so that no collective times out.
    Returns: the entry on the main process, which alone reads it; None on the others.
    """
    found: Entry | None = None
    lease: SoftFileLease | None = None
    refusal: CannotStoreError | None = None
    looks = 0

    def look() -> Literal["found", "ours", "wait"]:
        nonlocal found, lease, refusal, looks
        with suppress(OSError, ValueError, SafetensorError):
            found = read_shared(path)
            return "found"
        looks += 1
        try:
            lease = acquire_lease(path, timeout=POLL_SECONDS)
        except Timeout:
            if looks == 1:
                logger.warning("another job computes %s; waiting for it", path)
            return "wait"
        except CannotStoreError as error:
            refusal = error
            return "ours"
        found = load_entry(path)  # another job may just have made it
        return "ours" if found is None else "found"

    def make() -> None:
        nonlocal found
        entry = finish(gathered)
        found = store(path, entry) if refusal is None else keep_in_memory(entry, refusal)

    try:
        while (state := processes.on_main(look)) == "wait":
            pass
        if state == "ours":
            gathered = gather()
            processes.on_main(make)
    finally:
        if lease is not None:
            lease.release()
    return found


def _to_entry(real: ImageStatistics, other: ImageStatistics | None, device: torch.device) -> Entry:
    reference = build_reference(real, device)
    floor = {}
    if other is not None:
        floor["train_test"] = reference.score(other, device) | {"n_real": real.n, "n_fake": other.n}
    first, second = real.half(0), real.half(1)
    if second.n >= 2:
        floor["split_half"] = build_reference(first, device).score(second, device)
        floor["split_half"] |= {"n_real": first.n, "n_fake": second.n}
    tensors = {
        "mean": reference.moments.mean,
        "covariance": reference.moments.covariance,
        "root": reference.root,
        "features": reference.features,
    }
    if reference.radii is not None:
        tensors["radii"] = reference.radii
    duplicates = str(count_duplicates(real.features))
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    return tensors, {"n": str(real.n), "floor": json.dumps(floor), "duplicates": duplicates}


def _from_entry(tensors: dict[str, Tensor], metadata: dict[str, str], device: torch.device) -> Reference:
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}  # once, and not at every evaluation
    moments = Moments(int(metadata["n"]), tensors["mean"], tensors["covariance"])
    floor, duplicates = json.loads(metadata["floor"]), int(metadata["duplicates"])
    if duplicates:
        n = len(tensors["features"])
        logger.warning(
            "%d of the first %d real images have the features of another: %s", duplicates, n, WHAT_DUPLICATES_DO
        )
    return Reference(moments, tensors["root"], tensors["features"], tensors.get("radii"), floor, duplicates)


def build_given_reference(moments: Moments) -> Reference:
    """Of a mean and a covariance alone: it gives a FID, and no score that compares images."""
    n_features = len(moments.mean)
    return Reference(moments, matrix_square_root(moments.covariance), torch.empty(0, n_features), None, {})
