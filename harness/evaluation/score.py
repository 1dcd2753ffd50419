"""Scores of anyone's images against anyone's: `aaebench score`, alone or on every process of `accelerate launch`."""

import logging
from collections.abc import Iterable
from pathlib import Path

from harness.data.readers.formats import describe_use
from harness.data.source import shown
from harness.errors import InputError
from harness.evaluation.classifier import SHIPPED
from harness.evaluation.extractors import Extractor, build_extractor
from harness.evaluation.files import GivenStatistics, Inspection, UserImages, open_images, open_reference
from harness.evaluation.manifold import count_duplicates
from harness.evaluation.reference import WHAT_DUPLICATES_DO, Reference, build_given_reference, load_reference
from harness.evaluation.statistics import ImageStatistics, gather_statistics
from harness.launch.processes import Processes, build_accelerator
from harness.protocol import EXTRACTORS, Protocol, Reading, load_protocol
from harness.terminal import Bar, say

logger = logging.getLogger(__name__)
# What of a protocol says how given images are read: the rest speaks of a decoder.
OF_IMAGES = ("extractor", "extractor_weights", "extractor_sha256", "resize", "size", "quantisation", "autocast")
TINY = 1e-12  # variance of equal features, but for rounding
BATCH_SIZES = (16, 128)  # on a CPU, and elsewhere: photographs of 12 megapixels are held so many at a time


def score_images(real: Path, fake: Path, protocol: Protocol, extractor: str | None = None) -> dict[str, object]:
    """Every score of the fake images against the real ones, and what it means.

    Each of the two is a folder, a zip, tar or npz file; the real images may also be their statistics, an npz file of
    `mu` and `sigma`, which give a FID alone. The real images' statistics are cached by their content. Run by several
    processes, each featurises its share. Files are read as clean-fid reads them.

    Args: extractor: inception, torchvision, domain-<data set> (shipped), a TorchScript file or a classifier's
        .safetensors; the protocol's own if it is None.
    Returns: the scores of `Reference.score`, the protocol, n_real (None for given statistics), n_fake, the real images'
        split-half `floor`; and by `real` and `fake` how many files were `passed_over`, how many images have an
        orientation or transparency that was ignored, and how many of the first are `duplicates`.
    Raises: InputError for files that are no images, fewer than two of them, or missing weights.
    """
    _require_images_protocol(protocol)
    processes = Processes(build_accelerator("no"))
    chosen = protocol if extractor is None else _with_extractor(protocol, extractor)
    network = processes.main_first(lambda: build_extractor(chosen, processes.device))
    batch_size = BATCH_SIZES[processes.device.type != "cpu"]
    given, fakes = open_reference(real), open_images(fake)
    images = {"real": given, "fake": fakes} if isinstance(given, UserImages) else {"fake": fakes}
    if processes.is_main_process:
        _say_passed_over(images.values())
    found = {which: processes.on_main(these.inspect) for which, these in images.items()}
    if isinstance(given, UserImages):
        sha256, n_real = found["real"].sha256, len(given)
        reference = load_reference(given, None, sha256, network, protocol.autocast, batch_size, processes)
    else:
        sha256, n_real = given.sha256, 0
        reference = _refer_to(given, network)
    with Bar("images", disable=not processes.is_main_process) as progress:
        task = progress.add_task(f"scoring {shown(fake)}", total=len(fakes))
        statistics = gather_statistics(
            fakes, network, processes, batch_size, lambda done: progress.update(task, completed=done)
        )

    def score() -> dict[str, object]:
        assert reference is not None
        duplicates = {"real": reference.duplicates, "fake": count_duplicates(statistics.features)}
        _warn(found, statistics, duplicates["fake"], fake)
        return {**reference.score(statistics, processes.device), "floor": reference.floor, "duplicates": duplicates}

    scores = processes.on_main(score)
    reading = Reading(
        name=protocol.name,
        normalisation="none",
        batch_size=0,
        data_sha256=sha256,
        n_real=n_real,
        n_fake=len(fakes),
        extractor=network.name,
        extractor_sha256=network.sha256,
        resize=network.resizing,
        quantisation="uint8",
        reference="given images" if n_real else "given statistics",
        autocast=protocol.autocast,
    )
    return {
        **scores,
        "protocol": reading.name,
        "protocol_id": reading.id,
        "extractor": reading.extractor,
        "extractor_sha256": reading.extractor_sha256,
        "resize": reading.resize,
        "n_real": reading.n_real or None,
        "n_fake": reading.n_fake,
        "real": str(real),
        "fake": str(fake),
        "passed_over": {which: len(these.passed_over) for which, these in images.items()},
        "orientation_ignored": {which: these.turned for which, these in found.items()},
        "transparency_ignored": {which: these.transparent for which, these in found.items()},
    }


def _require_images_protocol(protocol: Protocol) -> None:
    """Raises: InputError for a protocol that says something of generated images, or of splits, or that reads given
    images exactly as `clean` does and differs from it in the decoder alone, whatever its name.
    """
    clean = load_protocol("clean")
    same = all(getattr(protocol, name) == getattr(clean, name) for name in OF_IMAGES)
    of_a_decoder = protocol.n_fake is not None or protocol.batch_size is not None
    if of_a_decoder or protocol.reference == "test" or (same and protocol.normalisation != clean.normalisation):
        raise InputError(
            f"the protocol {protocol.name} speaks of a decoder or of a data set's splits, and neither takes part: "
            "use clean, published, or a file without n_fake, batch_size and reference, normalisation: running"
        )


def _refer_to(given: GivenStatistics, network: Extractor) -> Reference:
    if len(given.moments.mean) != network.n_features:
        raise InputError(
            f"{shown(given.path)} holds statistics of {len(given.moments.mean)} features, and the extractor "
            f"{network.name} makes {network.n_features}; score with the extractor that they were computed with"
        )
    return build_given_reference(given.moments)


def _with_extractor(protocol: Protocol, name: str) -> Protocol:
    """The protocol with the extractor that a user names. Raises: InputError if there is none of that name."""
    path = SHIPPED / f"{name}.safetensors" if name.startswith("domain-") else Path(name)
    if path.suffix == ".safetensors":
        if not path.is_file():
            shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.safetensors")))
            raise InputError(f"there are no weights for --extractor {name}; shipped: {shipped}; or name a file")
        return protocol.model_copy(update={"extractor": "domain", "extractor_weights": path})
    if name in ("inception", "torchvision"):
        return protocol.model_copy(update={"extractor": name, "extractor_weights": None})
    if not path.is_file():
        valid = ", ".join(sorted({*EXTRACTORS} - {"domain", "torchscript"}))
        raise InputError(f"--extractor {name} is no file; name one, or {valid}, domain-digits, domain-fashion_mnist")
    return protocol.model_copy(update={"extractor": "torchscript", "extractor_weights": path})


def _say_passed_over(images: Iterable[UserImages]) -> None:
    for these in images:
        if these.passed_over:
            line = describe_use(these.path, len(these), these.passed_over)
            say(line)


def _warn(found: dict[str, Inspection], statistics: ImageStatistics, duplicates: int, fake: Path) -> None:
    if statistics.moments().covariance.trace().item() < TINY:
        logger.warning("all images in %s have the same features: a constant, or one image many times", shown(fake))
    elif duplicates:
        n = len(statistics.features)
        logger.warning(
            "%d of the first %d fake images have the features of another: %s", duplicates, n, WHAT_DUPLICATES_DO
        )
    if any(these.grey for these in found.values()) and any(these.colour for these in found.values()):
        counts = ", ".join(f"{which} has {these.grey} grey and {these.colour} colour" for which, these in found.items())
        logger.warning("%s images: grey ones count as three equal channels", counts)
    for which, these in found.items():
        if these.turned or these.transparent:
            logger.warning(
                "of the %s images %d have an EXIF orientation, %d transparency; scores ignore both, as clean-fid does",
                *(which, these.turned, these.transparent),
            )
