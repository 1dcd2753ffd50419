"""What a run is and which evaluations it has: from its folder alone, without torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.fields import ALWAYS_NAMED, FIELDS, differing, paper_batch_size
from harness.files import hash_file
from harness.protocol import Protocol, Reading, read_protocol
from harness.record import EvaluationFolder, Record, RunFolder, key_of
from harness.schema import check_evaluation, check_object

if TYPE_CHECKING:
    from harness.config import RunConfig  # which imports torch, for the variants

# What one line of an evaluation is about: a sampler and the sampling seed of its codes; "" is the posterior itself.
Part = tuple[str, int]
POSTERIOR: Part = ("", 0)
MECHANISMS: Part = ("mechanisms", 0)


def list_parts(samplers: Sequence[str], sampling_seeds: int, *, reconstructions: bool, mechanisms: bool) -> list[Part]:
    """What is measured of the weights of one epoch: the posterior, each sampler's images, perhaps reconstructions and
    mechanisms.

    Sampling seed 0 is the run's own; prior samples are scored with `sampling_seeds` of them.
    """
    parts = [POSTERIOR, *((sampler, 0) for sampler in samplers)]
    if reconstructions:
        parts.append(("reconstruction", 0))
    if mechanisms:
        parts.append(MECHANISMS)
    return parts + [("prior", number) for number in range(1, sampling_seeds)]


def read_run(folder: RunFolder) -> tuple[Record, Record, Record]:
    """A run's configuration, status and environment, checked as a user's input is: they may be a stranger's.

    Raises: OSError if it has no configuration, ValueError if one of them is damaged.
    """
    config, status, environment = folder.read_config(), folder.read_status(), folder.read_environment()
    check_object("config", config)
    check_object("status", status)
    check_object("environment", environment)
    return config, {"epoch": 0, **status}, environment


def read_evaluation(evaluation: EvaluationFolder) -> tuple[Record, list[Record]]:
    """What an evaluation is a reading under, whole, and its lines, checked as `read_run` does.

    Raises: OSError if it is not there, ValueError if it is damaged.
    """
    protocol, lines = evaluation.read_protocol(), evaluation.read()
    check_object("protocol", protocol)
    if lacking := {"id", *Reading.__dataclass_fields__} - protocol.keys():
        raise ValueError(f"{evaluation.protocol_id}/protocol.json lacks {min(lacking)}")
    check_evaluation(lines)
    return protocol, lines


def find_evaluation(folder: RunFolder, protocol: Protocol, image_size: int) -> EvaluationFolder | None:
    """The evaluation that a run has under a protocol; None for none, or where only loading everything could tell."""
    for evaluation in folder.find_evaluations():
        try:
            if _describes(protocol, evaluation.read_protocol(), image_size):
                return evaluation
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: it is made anew
    return None


def is_measured(folder: RunFolder, protocol: Protocol, image_size: int, epoch: int, parts: Sequence[Part]) -> bool:
    """Whether a run has all these parts of an epoch under a protocol; what has no posterior has no reconstructions."""
    evaluation = find_evaluation(folder, protocol, image_size)
    if evaluation is None:
        return False
    lines = {key_of(line): line for line in evaluation.read(epoch)}
    posterior = lines.get((epoch, *POSTERIOR), {})
    if posterior.get("posterior/collapse") == "no posterior":
        parts = [part for part in parts if part[0] != "reconstruction"]
    return all((epoch, *part) in lines for part in parts)


def require_same_extractor(folder: RunFolder, reading: Reading) -> None:
    """Raises: InputError where the run has the same reading, but for other weights of the extractor."""
    wanted = reading.describe()
    for evaluation in folder.find_evaluations():
        try:
            found = evaluation.read_protocol()
        except (OSError, ValueError) as error:
            raise InputError(f"{evaluation.path} is damaged ({error}); remove it, and it is measured anew") from error
        if {name for name in wanted if found.get(name) != wanted[name]} == {"id", "extractor_sha256"}:
            raise InputError(
                f"{folder.path}: the extractor {reading.extractor} is another than when {evaluation.protocol_id} was "
                f"begun (SHA-256 {found['extractor_sha256']} then, {reading.extractor_sha256} now): numbers of the two "
                "cannot be compared; bring back the first, or give the protocol another name"
            )


def is_settled(folder: RunFolder, config: "RunConfig") -> bool:
    """Whether a run needs neither training nor evaluation: it has the epochs, and all readings of the last of them.

    One whose evaluations are made separately needs none here.

    Raises: ValueError if its status is damaged.
    """
    if not folder.is_done(config.epochs):
        return False
    if config.eval_when == "separately":
        return True
    is_last = folder.read_status()["epoch"] == config.epochs
    mechanisms = is_last and config.mechanisms
    parts = list_parts(config.samplers, config.sampling_seeds, reconstructions=is_last, mechanisms=mechanisms)
    return all(is_measured(folder, protocol, config.image_size, config.epochs, parts) for protocol in config.protocol)


def read_epoch(folder: RunFolder, protocol_id: str, epoch: int) -> Record:
    """What one evaluation says of one epoch: the posterior, and the scores of prior samples; {} for nothing."""
    lines = folder.evaluation(protocol_id).read(epoch)
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


def describe_run(path: Path, usual_options: Callable[[str], Mapping[str, object]]) -> str:
    """What a run's id stands for, where the run is, and its evaluations, for a person.

    Args: usual_options: the default options of a variant, by its name; they go without saying.
    Raises: InputError if there is no run folder, or it is damaged.
    """
    folder = RunFolder(path)
    if not folder.config_file.is_file():
        raise InputError(f"{path} is no run folder; name one, as runs/aae-digits-32px-seed0-...")
    try:
        config, status, _ = read_run(folder)
        asked = [read_protocol(fields) for fields in config["protocol"]]
        evaluations = [_describe_evaluation(each) for each in folder.find_evaluations()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    usual = usual_options(config["variant"])
    options = {name: value for name, value in config["options"].items() if name not in usual or usual[name] != value}
    protocols = [f"{protocol.name} ({protocol.extractor})" for protocol in asked]
    settings = {name: config[name] for name in ALWAYS_NAMED} | differing({**config, "options": options})
    settings |= {"protocol": protocols}
    by_change = {
        "trains": {name: value for name, value in settings.items() if FIELDS[name].changes == "training"},
        "measures": {name: value for name, value in settings.items() if FIELDS[name].changes == "measurement"},
        "else": {name: value for name, value in settings.items() if FIELDS[name].changes == "nothing"},
    }
    reason = f" ({status['reason']})" if "reason" in status else ""
    lines = [path.resolve().name, f"{status['state']}: epoch {status.get('epoch', 0)} of {config['epochs']}{reason}"]
    for title, fields in by_change.items():
        lines += [f"{title}:", *(f"  {name}: {_show(value)}" for name, value in fields.items())] if fields else []
    return "\n".join([*lines, "evaluations:", *(evaluations or ["  none yet"])])


def _describe_evaluation(evaluation: EvaluationFolder) -> str:
    protocol, lines = evaluation.read_protocol(), evaluation.read()
    scored = sorted({(line["sampler"], line["sampling_seed"]) for line in lines if "sampler" in line})
    epochs = ", ".join(str(epoch) for epoch in sorted({line["epoch"] for line in lines}))
    codes = ", ".join(sampler + (f" (sampling seed {seed})" if seed else "") for sampler, seed in scored)
    mechanisms = "; mechanisms" if any(key_of(line)[1:] == MECHANISMS for line in lines) else ""
    return (
        f"  {protocol['id']}: {protocol['extractor']}, {protocol['n_fake']} images against {protocol['n_real']} of the "
        f"{protocol['reference']} split; codes from {codes or 'nothing yet'}{mechanisms}; epochs {epochs or 'none'}"
    )


def _show(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
