"""Which evaluations a run has, and what of them is missing: from its folder alone, without torch."""

from collections.abc import Sequence

from harness.fields import paper_batch_size
from harness.files import hash_file
from harness.protocol import Protocol
from harness.record import EvaluationFolder, Record, RunFolder, key_of

# What one line of an evaluation is about: a sampler and the sampling seed of its codes; "" is the posterior itself.
Part = tuple[str, int]
POSTERIOR: Part = ("", 0)


def list_parts(samplers: Sequence[str], sampling_seeds: int, *, reconstructions: bool) -> list[Part]:
    """What is measured of the weights of one epoch: the posterior, each sampler's images, perhaps reconstructions.

    Sampling seed 0 is the run's own; prior samples are scored with `sampling_seeds` of them.
    """
    parts = [POSTERIOR, *((sampler, 0) for sampler in samplers)]
    if reconstructions:
        parts.append(("reconstruction", 0))
    return parts + [("prior", number) for number in range(1, sampling_seeds)]


def find_evaluation(folder: RunFolder, protocol: Protocol, image_size: int) -> EvaluationFolder | None:
    """The evaluation that a run has under a protocol; None for none, or where only loading everything could tell."""
    for evaluation in folder.find_evaluations():
        try:
            if _describes(protocol, evaluation.read_protocol(), image_size):
                return evaluation
        except (OSError, ValueError, KeyError):
            continue  # damaged: it is made anew
    return None


def is_measured(folder: RunFolder, protocol: Protocol, image_size: int, epoch: int, parts: Sequence[Part]) -> bool:
    """Whether a run has all these parts of an epoch under a protocol; what has no posterior has no reconstructions."""
    evaluation = find_evaluation(folder, protocol, image_size)
    if evaluation is None:
        return False
    lines = {key_of(line): line for line in evaluation.read() if line["epoch"] == epoch}
    posterior = lines.get((epoch, *POSTERIOR), {})
    if posterior.get("posterior/collapse") == "no posterior":
        parts = [part for part in parts if part[0] != "reconstruction"]
    return all((epoch, *part) in lines for part in parts)


def read_epoch(folder: RunFolder, protocol_id: str, epoch: int) -> Record:
    """What one evaluation says of one epoch: the posterior, and the scores of prior samples; {} for nothing."""
    lines = folder.evaluation(protocol_id).read()
    own = [line for line in lines if key_of(line) in ((epoch, *POSTERIOR), (epoch, "prior", 0))]
    return {name: value for line in own for name, value in line.items()}


def _describes(protocol: Protocol, reading: Record, image_size: int) -> bool:
    """Whether a reading is one under this protocol, as far as the protocol says what it wants."""
    wanted = {
        "name": protocol.name,
        "normalisation": protocol.normalisation,
        "batch_size": protocol.batch_size or paper_batch_size(image_size),
        "n_fake": protocol.n_fake or reading["n_real"],
        "reference": protocol.reference,
        "extractor": protocol.extractor,
        "extractor_sha256": protocol.extractor_sha256 or reading["extractor_sha256"],
        "quantisation": protocol.quantisation,
        "autocast": protocol.autocast,
    }
    if protocol.extractor_weights is not None:
        wanted["extractor_sha256"] = hash_file(protocol.extractor_weights)
    how, _, size = str(reading["resize"]).partition(", ")
    return (
        all(reading[name] == value for name, value in wanted.items())
        and protocol.resize in (None, how)
        and (protocol.size is None or f"{protocol.size} px" == size)
    )
