"""Scores of anyone's images against anyone's: `aaebench score`, alone or on every process of `accelerate launch`."""

import logging
from pathlib import Path

from rich.progress import Progress

from harness.errors import InputError
from harness.evaluation.classifier import SHIPPED
from harness.evaluation.extractors import build_extractor
from harness.evaluation.files import Inspection, open_images
from harness.evaluation.reference import load_reference
from harness.evaluation.statistics import gather_statistics
from harness.launch.processes import Processes, build_accelerator
from harness.protocol import EXTRACTORS, Protocol, Reading
from harness.terminal import console

logger = logging.getLogger(__name__)
TINY = 1e-12  # variance of equal features, but for rounding
BATCH_SIZES = (16, 128)  # on a CPU, and elsewhere: photographs of 12 megapixels are held so many at a time


def score_images(real: Path, fake: Path, protocol: Protocol, extractor: str | None = None) -> dict[str, object]:
    """Every score of the fake images against the real ones, and what it means.

    Each of the two is a folder, a zip, tar or npz file. The real images' statistics are cached by their content. Run by
    several processes, each featurises its share.

    Args: extractor: inception, torchvision, domain-<data set> (shipped), a TorchScript file or a classifier's
        .safetensors; the protocol's own if it is None.
    Returns: the scores of `Reference.score`, the protocol, n_real, n_fake, and the real images' split-half `floor`.
    Raises: InputError for files that are no images, fewer than two of them, or missing weights.
    """
    if protocol.name == "paper" or protocol.n_fake is not None or protocol.reference == "test":
        raise InputError(
            f"the protocol {protocol.name} speaks of a decoder or of a data set's splits, and neither takes part: "
            "use clean, published, or a file without n_fake and reference"
        )
    processes = Processes(build_accelerator("no"))
    chosen = protocol if extractor is None else _with_extractor(protocol, extractor)
    network = processes.main_first(lambda: build_extractor(chosen, processes.device))
    images = {"real": open_images(real), "fake": open_images(fake)}
    found = {which: processes.on_main(these.inspect) for which, these in images.items()}
    batch_size = BATCH_SIZES[processes.device.type != "cpu"]
    reference = load_reference(
        images["real"], None, found["real"].sha256, network, protocol.autocast, batch_size, processes
    )
    with Progress(console=console, disable=not processes.is_main_process) as progress:
        task = progress.add_task(f"scoring {fake}", total=len(images["fake"]))
        statistics = gather_statistics(
            images["fake"], network, processes, batch_size, lambda done: progress.update(task, completed=done)
        )

    def score() -> dict[str, object]:
        assert reference is not None
        return {**reference.score(statistics, processes.device), "floor": reference.floor}

    scores = processes.on_main(score)
    if processes.is_main_process:
        _warn(found, statistics.moments().covariance.trace().item(), fake)
    reading = Reading(
        name=protocol.name,
        normalisation="none",
        batch_size=0,
        data_sha256=found["real"].sha256,
        n_real=len(images["real"]),
        n_fake=len(images["fake"]),
        extractor=network.name,
        extractor_sha256=network.sha256,
        resize=network.resizing,
        quantisation="uint8",
        reference="given images",
        autocast=protocol.autocast,
    )
    return {
        **scores,
        "protocol": reading.name,
        "protocol_id": reading.id,
        "extractor": reading.extractor,
        "extractor_sha256": reading.extractor_sha256,
        "resize": reading.resize,
        "n_real": reading.n_real,
        "n_fake": reading.n_fake,
        "real": str(real),
        "fake": str(fake),
    }


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


def _warn(found: dict[str, Inspection], variance: float, fake: Path) -> None:
    if variance < TINY:
        logger.warning("all images in %s have the same features: a constant, or one image many times", fake)
    if any(these.grey for these in found.values()) and any(these.colour for these in found.values()):
        counts = ", ".join(f"{which} has {these.grey} grey and {these.colour} colour" for which, these in found.items())
        logger.warning("%s images: grey ones count as three equal channels", counts)
