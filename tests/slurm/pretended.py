"""Run folders as runs leave them, without training."""

from typing import Any

from harness.config import RunConfig
from harness.fields import paper_batch_size
from harness.protocol import Protocol, Reading
from harness.record import RunFolder

HISTOGRAM = {f"posterior/value_{i}": 0.123456789 for i in range(40)}


def pretend(folder: RunFolder, config: RunConfig, state: Any, epoch: int = 2, **status: Any) -> None:
    """A run after so many epochs, each evaluated: its FID is 20 less the epoch, an evaluation takes seven seconds."""
    folder.ask_for(config.model_dump(mode="json"))
    folder.write_environment({"num_processes": 1})
    timed = {"time/epoch_seconds": 20.0, "time/images_per_second": 90.0}
    lines = []
    for each in range(epoch + 1):
        place = {"epoch": each, "images_seen": each}
        folder.append_record(place | (timed if each else {}))
        lines.append({**place, **HISTOGRAM, "time/evaluation_seconds": 1.0})
        for sampler in ("prior", "reconstruction"):
            scores = {"eval/fid": 20.0 - each if sampler == "prior" else 1.0, "time/evaluation_seconds": 3.0}
            lines.append({**place, "sampler": sampler, "sampling_seed": 0, **scores})
    for protocol in config.protocol:
        reading = read_under(protocol, config.image_size)
        evaluation = folder.evaluation(reading.id)
        evaluation.create({**reading.describe(), "floor": {}})
        evaluation.append(lines)
    folder.write_status(state, epoch=epoch, epochs=config.epochs, **status)


def read_under(protocol: Protocol, image_size: int) -> Reading:
    """The protocol bound to data that are not there."""
    return Reading(
        name=protocol.name,
        normalisation=protocol.normalisation,
        batch_size=protocol.batch_size or paper_batch_size(image_size),
        data_sha256="0" * 64,
        n_real=1797,
        n_fake=protocol.n_fake or 1797,
        extractor=protocol.extractor,
        extractor_sha256="1" * 64,
        resize="antialiased, 32 px",
    )
