"""The README.md of an export: what the model is, what it was trained on, how it scores, and how to load it."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from harness.evaluation.normalisation import BATCH_NORMS
from harness.fields import FIELDS, differing, paper_batch_size
from harness.measures import select
from harness.models.load import Trained
from harness.record import Record
from variants import Variant

PAPER = "Analysis and Improvement of Adversarial AutoEncoder"
# Fields that the card names by themselves, whatever their values.
SAID = {"variant", "options", "dataset", "image_size", "channels", "seed", "batch_size", "learning_rate", "optimizer"}
SAID |= {"latent_dim", "architecture", "mixed_precision"}


def build_card(
    trained: Trained, environment: dict[str, Any], readings: Sequence[tuple[dict[str, Any], list[Record]]], folder: str
) -> str:
    """Markdown. `readings`: each evaluation's protocol and its lines of the epoch that the state ends."""
    return "\n".join(
        [
            f"# {trained.origin.run_id}",
            "",
            f"{_describe(type(trained.variant))} An image model trained by aaebench; the paper is *{PAPER}*.",
            "",
            *_list(_facts(trained, environment, readings)),
            "",
            "## Scores",
            "",
            *_scores(readings),
            "",
            "## Posterior",
            "",
            *_posterior(readings),
            "",
            "## Load it",
            "",
            "With aaebench installed, in the folder that holds this one:",
            "",
            "```python",
            "import harness",
            f"model = harness.load({json.dumps(folder)})",
            "images = model.decode(model.sample_prior(64))  # (64, C, S, S) in [-1, 1]",
            "```",
            "",
            f"`aaebench sample {shlex.quote(folder)} -n 64` draws images as they were scored.{_normalisation(trained)}",
            "",
        ]
    )


def _describe(variant: type[Variant]) -> str:
    """The first line of the variant's file, which names its place in the paper, or of a user's own class."""
    text = sys.modules[variant.__module__].__doc__ or variant.__doc__ or variant.__name__
    return text.strip().splitlines()[0]


def _list(facts: Iterable[tuple[str, object]]) -> list[str]:
    return [f"- {name}: {value}" for name, value in facts]


def _facts(trained: Trained, environment: dict[str, Any], readings: Sequence[Any]) -> Iterable[tuple[str, object]]:
    config, origin = trained.config, trained.origin
    options = ", ".join(f"{name} = {value}" for name, value in config["options"].items())
    yield "variant", f"`{config['variant']}`" + (f" ({options})" if options else "")
    yield "architecture", f"{config['architecture']}, {config['latent_dim']} latent dimensions"
    counts = [protocol["n_real"] for protocol, _ in readings if protocol["reference"] == "train"]
    images = f"{counts[0]:,} training images" if counts else "its training images"
    channels = "1 channel" if config["channels"] == 1 else f"{config['channels']} channels"
    yield "data", f"{config['dataset']}: {images} at {config['image_size']} px, {channels}"
    yield "seed", config["seed"]
    yield (
        "optimisation",
        f"{config['optimizer']} at {config['learning_rate']:g}, batches of {config['batch_size']}, "
        f"mixed precision {config['mixed_precision']}",
    )
    for name, value in differing(config).items():
        if FIELDS[name].changes == "training" and name not in SAID:
            yield name, value
    within = f" and {origin.step} steps of the next" if origin.step else ""
    yield "state", f"epoch {origin.epoch} of {config['epochs']}{within} (`{origin.checkpoint}`)"
    seen = [line["images_seen"] for _, lines in readings for line in lines]
    if seen:
        yield "images seen", f"{seen[0]:,}"
    if origin.averaged:
        yield "weights", "those that decode are exponential moving averages over the training steps"
    yield "code", f"git commit {environment.get('git_commit') or 'unknown'}"


def _scores(readings: Sequence[tuple[dict[str, Any], list[Record]]]) -> list[str]:
    """For each protocol a table, a row per distribution of codes: under it alone its numbers mean something."""
    text: list[str] = []
    for protocol, lines in readings:
        scored = [line for line in lines if "sampler" in line]
        shown = [m for m in select("eval", place="card") if any(m.key in line for line in scored)]
        rows = [[_name_codes(line), *(_number(line.get(measure.key)) for measure in shown)] for line in scored]
        text += [
            f"Protocol `{protocol['id']}`, extractor `{protocol['extractor']}`: {protocol['n_fake']:,} images against "
            f"{protocol['n_real']:,} real ones. Scores of other protocol ids are other quantities.",
            "",
            f"| codes | {' | '.join(measure.title_by(protocol['extractor']) for measure in shown)} |",
            f"| --- |{' ---: |' * len(shown)}",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    return text[:-1] or ["This state was not evaluated."]


def _name_codes(line: Record) -> str:
    return line["sampler"] + (f", sampling seed {line['sampling_seed']}" if line["sampling_seed"] else "")


def _posterior(readings: Sequence[tuple[dict[str, Any], list[Record]]]) -> list[str]:
    found = [line for _, lines in readings for line in lines if "posterior/collapse" in line]
    if not found:
        return ["This state was not evaluated."]
    record = found[0]
    if record["posterior/collapse"] == "no posterior":
        return ["This variant has no encoder."]
    shown = [measure for measure in select("posterior", place="card") if measure.key in record]
    facts = [(measure.title, _number(record[measure.key])) for measure in shown]
    return _list([*facts, ("collapse", record["posterior/collapse"])])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _normalisation(trained: Trained) -> str:
    modules = (module for part in trained.variant.decoding_modules() for module in part.modules())
    if trained.protocol.normalisation == "running" or not any(isinstance(module, BATCH_NORMS) for module in modules):
        return ""
    batch_size = trained.protocol.batch_size or paper_batch_size(trained.config["image_size"])
    return (
        f" Its BatchNorm layers then normalise by the statistics of batches of {batch_size:,} images; a loaded model "
        "uses the running statistics, and its images differ."
    )
