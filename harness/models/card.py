"""The README.md of an export: what the model is, what it was trained on, how it scores, and how to load it."""

import json
import shlex
import sys
from collections.abc import Iterable
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from harness.models.load import Trained
from harness.protocol import evaluation_batch_size
from harness.record import ADDED_FIELDS, Record
from variants import Variant

PAPER = "Analysis and Improvement of Adversarial AutoEncoder"
SCORES = {
    "fid": "FID",
    "fid_infinity": "FID-infinity",
    "kid": "KID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
POSTERIOR = {
    "sigma_mean": "mean sigma",
    "noise_share": "noise share, E[sigma²] / (Var(mu) + E[sigma²])",
    "active_units": "active units",
    "prior_kl": "KL of the aggregated posterior's Gaussian fit to the prior, nats",
    "collapse": "collapse",
    "reconstruction_l1": "mean absolute error of reconstructions, images in [-1, 1]",
}


def build_card(trained: Trained, environment: dict[str, Any], record: Record | None, folder: str) -> str:
    """Markdown. `record` is that of the epoch that the state ends; None for a state within an epoch."""
    return "\n".join(
        [
            f"# {trained.origin.run_id}",
            "",
            f"{_describe(type(trained.variant))} An image model trained by aaebench; the paper is *{PAPER}*.",
            "",
            *_list(_facts(trained, environment, record)),
            "",
            "## Scores",
            "",
            *_scores(trained, record),
            "",
            "## Posterior",
            "",
            *_posterior(record),
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


def _facts(trained: Trained, environment: dict[str, Any], record: Record | None) -> Iterable[tuple[str, object]]:
    config, origin = trained.config, trained.origin
    options = ", ".join(f"{name} = {value}" for name, value in config["options"].items())
    yield "variant", f"`{config['variant']}`" + (f" ({options})" if options else "")
    yield "architecture", f"{config['architecture']}, {config['latent_dim']} latent dimensions"
    scored = environment.get("protocol", {})
    images = f"{scored['n_real']:,} training images" if scored.get("reference") == "train" else "its training images"
    channels = "1 channel" if config["channels"] == 1 else f"{config['channels']} channels"
    yield "data", f"{config['dataset']}: {images} at {config['image_size']} px, {channels}"
    config = ADDED_FIELDS | config
    yield "seed", config["seed"]
    yield (
        "optimisation",
        f"{config['optimizer']} at {config['learning_rate']:g}, batches of {config['batch_size']}, "
        f"mixed precision {config['mixed_precision']}",
    )
    for name, usual in ADDED_FIELDS.items():
        if name != "optimizer" and config[name] != usual:
            yield name, config[name]
    within = f" and {origin.step} steps of the next" if origin.step else ""
    yield "state", f"epoch {origin.epoch} of {config['epochs']}{within} (`{origin.checkpoint}`)"
    if record is not None:
        yield "images seen", f"{record['images_seen']:,}"
    if origin.averaged:
        yield "weights", "those that decode are exponential moving averages over the training steps"
    yield "code", f"git commit {environment.get('git_commit') or 'unknown'}"


def _scores(trained: Trained, record: Record | None) -> list[str]:
    """A table, a row per distribution of codes, under the protocol that makes its numbers mean something."""
    if record is None or "eval/protocol_id" not in record:
        return ["This state was not evaluated."]
    groups = [key.removesuffix("/protocol_id") for key in record if key.endswith("/protocol_id")]
    columns = [name for name in SCORES if any(f"{group}/{name}" in record for group in groups)]
    rows = [
        [group.partition(".")[2] or "prior", *(_number(record.get(f"{group}/{name}")) for name in columns)]
        for group in groups
    ]
    return [
        f"Protocol `{record['eval/protocol_id']}`, extractor `{record['eval/extractor']}`: {record['eval/n_fake']:,} "
        f"images against {record['eval/n_real']:,} real ones. Scores of other protocol ids are other quantities.",
        "",
        f"| codes | {' | '.join(SCORES[name] for name in columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _posterior(record: Record | None) -> list[str]:
    if record is None or "posterior/collapse" not in record:
        return ["This state was not evaluated."]
    if record["posterior/collapse"] == "no posterior":
        return ["This variant has no encoder."]
    present = {name: record[f"posterior/{name}"] for name in POSTERIOR if f"posterior/{name}" in record}
    return _list(
        (POSTERIOR[name], value if isinstance(value, str) else _number(value)) for name, value in present.items()
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _normalisation(trained: Trained) -> str:
    modules = (module for part in trained.variant.decoding_modules() for module in part.modules())
    if trained.protocol.normalisation == "running" or not any(isinstance(module, _BatchNorm) for module in modules):
        return ""
    batch_size = trained.protocol.batch_size or evaluation_batch_size(trained.config["image_size"])
    return (
        f" Its BatchNorm layers then normalise by the statistics of batches of {batch_size:,} images; a loaded model "
        "uses the running statistics, and its images differ."
    )
