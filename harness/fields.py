"""The fields of a run's configuration, once: what each changes, its default, what it means. No torch.

From this table follow a run's identity (what changes the trained weights, where it is not the default), what tells
cells apart (the same without the seed), and what `aaebench show` prints. harness/config.py adds the types.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# training: the trained weights. measurement: what is said of them. nothing: neither, beyond the last digits.
Changes = Literal["training", "measurement", "nothing"]


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most` that a field may have; `above`: not `least` itself; `below`: not `most`."""

    least: int | float
    most: int | float
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        over = number > self.least if self.above else number >= self.least
        return over and (number < self.most if self.below else number <= self.most)

    def __str__(self) -> str:
        first, last = "above" if self.above else "from", "below " if self.below else ""
        return f"{first} {self.least:,} to {last}{self.most:,}"


@dataclass(frozen=True)
class Field:
    """One field. `default` is a JSON value, or a function of the fields that stand before it in the table.

    `allowed`: of a number, or of each of several.
    """

    name: str
    changes: Changes
    default: Any
    meaning: str
    allowed: Range | None = None

    @property
    def bounds(self) -> dict[str, Any]:
        """What is allowed, as pydantic's constraints."""
        if self.allowed is None:
            return {}
        least, most = ("gt" if self.allowed.above else "ge"), ("lt" if self.allowed.below else "le")
        return {least: self.allowed.least, most: self.allowed.most}

    def default_among(self, fields: Mapping[str, Any]) -> Any:
        """The default in a run of these other fields."""
        return self.default(fields) if callable(self.default) else self.default


def paper_batch_size(image_size: int) -> int:
    """1024 at 32 px and 256 at 64 px, in training and where a protocol does not say otherwise (paper, section 6.1)."""
    return 1024 if image_size <= 32 else 256


def _usual_decay(fields: Mapping[str, Any]) -> float:
    return 0.01 if fields.get("optimizer") == "adamw" else 0.0


def _usual_batch_size(fields: Mapping[str, Any]) -> int:
    return paper_batch_size(fields.get("image_size", 32))


_ROWS: list[tuple[str, Changes, Any | Callable[[Mapping[str, Any]], Any], str]] = [
    ("variant", "training", "aae", "What is trained: a variant's name, or your own as package.module:Class"),
    ("options", "training", {}, "The variant's own parameters"),
    ("dataset", "training", "digits", "Name of the training set"),
    ("image_size", "training", 32, "Images are square; the mlp architecture takes 8 to 128 px, conv 32 to 128"),
    ("channels", "training", 3, "Grey images are repeated to 3 channels unless this is 1"),
    ("crop", "training", "squeeze", "How images become squares: squeeze, or center, their central square"),
    ("max_images", "training", None, "Use only so many images of the training set, at random, the same for all seeds"),
    ("seed", "training", 0, "All random numbers of the run follow from it"),
    ("epochs", "nothing", 100, "Passes over the training set; a finished run goes on from its end if there are more"),
    ("batch_size", "training", _usual_batch_size, "Over all processes"),
    ("learning_rate", "training", 1e-4, "Adam's, in every phase"),
    ("optimizer", "training", "adam", "adam or adamw"),
    ("betas", "training", [0.9, 0.999], "Adam's decay rates of the first and second moment"),
    ("weight_decay", "training", _usual_decay, "adamw's decoupled decay, adam's L2 term"),
    ("gradient_clipping", "training", None, "Largest norm of a phase's gradient"),
    ("gradient_accumulation", "training", 1, "Parts in which each process computes its share of a batch"),
    ("ema_decay", "training", None, "Decode with moving averages of the decoder's weights"),
    ("sync_batchnorm", "training", False, "BatchNorm over the batch of all GPUs, not over each one's share"),
    ("latent_dim", "training", 10, "Dimensions of a code"),
    ("architecture", "training", "mlp", "mlp, the paper's, or conv, DCGAN's, for 32 to 128 px"),
    ("mixed_precision", "training", "no", "no, tf32, bf16 or fp16"),
    ("feature_weights", "nothing", None, "The network whose activations dfc_vae compares"),
    ("feature_sha256", "training", None, "The checksum of that network's file, which follows from it"),
    (
        "step",
        "nothing",
        "auto",
        "How a step runs: graph (as a CUDA graph), auto (so where it can be), eager, compiled (torch.compile too)",
    ),
    ("checkpoint_every", "nothing", 5, "Epochs between checkpoints; the end always has one"),
    ("checkpoint_minutes", "nothing", 15, "Minutes of an epoch after which it is saved at a step"),
    ("keep_checkpoints", "nothing", 2, "Newest checkpoints that are kept, besides the best by FID"),
    ("keep_weights", "nothing", "none", "evaluations: keep encoder and decoder of every evaluated epoch; none"),
    (
        "extractor",
        "measurement",
        None,
        "A setting of each protocol: what makes features of images",
    ),
    (
        "extractor_weights",
        "measurement",
        None,
        "A setting of each protocol: a file instead of the shipped one",
    ),
    ("n_fake", "measurement", None, "A setting of each protocol: images generated; default: as many as real ones"),
    ("protocol", "measurement", ["paper"], "How to score: paper, clean, published, or a YAML file; or a list of them"),
    ("samplers", "measurement", ["prior"], "Distributions of codes to score, prior first"),
    ("sampling_seeds", "measurement", 1, "Sets of codes that prior samples are scored with"),
    (
        "mechanisms",
        "measurement",
        False,
        "Measure at the last epoch what docs/mechanisms.md explains: disentanglement, ...",
    ),
    ("eval_every", "measurement", 5, "Epochs between evaluations; the first and last state always are evaluated"),
    (
        "eval_when",
        "nothing",
        "during",
        "during: training waits for evaluations; after: they are made at the end; separately: by `aaebench evaluate`",
    ),
    (
        "trackers",
        "nothing",
        [],
        "Where the run shows as it trains: tensorboard, mlflow, wandb, trackio, comet; or a list of them",
    ),
    ("sweep", "nothing", "", "The sweep that this run is part of"),
    ("search", "nothing", {}, "Of fields that a sweep's search drew for this run, the distributions"),
]
_COUNTED = Range(1, 999_999)  # epochs: names of checkpoints have six digits for them, and are sorted
# Wide enough for whoever means it: beyond, a number is a slip, and would end in a full memory or never.
_RANGES = {
    "image_size": Range(8, 128),
    "max_images": Range(2, 100_000_000),
    "seed": Range(0, 2**53),  # what every reader of JSON keeps exactly
    "epochs": _COUNTED,
    "batch_size": Range(2, 1_000_000),
    "learning_rate": Range(0, 10, above=True),
    "betas": Range(0, 1, below=True),
    "weight_decay": Range(0, 10),
    "gradient_clipping": Range(0, 1_000_000, above=True),
    "gradient_accumulation": Range(1, 4096),
    "ema_decay": Range(0, 1, above=True, below=True),
    "latent_dim": Range(1, 16_384),
    "checkpoint_every": _COUNTED,
    "checkpoint_minutes": Range(0, 525_600),  # a year
    "keep_checkpoints": _COUNTED,
    "n_fake": Range(2, 10_000_000),
    "sampling_seeds": Range(1, 16),
    "eval_every": _COUNTED,
}
FIELDS: dict[str, Field] = {row[0]: Field(*row, _RANGES.get(row[0])) for row in _ROWS}
# What names a run besides its hash, and so is part of its identity at any value.
ALWAYS_NAMED = ("variant", "dataset", "image_size", "seed")


def differing(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration, as JSON values, that are not what they would be if nobody had set them."""
    return {
        name: fields[name]
        for name, field in FIELDS.items()
        if name in fields and fields[name] != field.default_among(fields)
    }


def compute_identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration, as JSON values, changes the trained weights: where it differs from the defaults.

    So a new field, or a new option of a variant, renames no run that was made before there was one.

    Args: fields: a whole configuration; of `options` those that are not the variant's defaults.
    """
    named = {name: fields[name] for name in ALWAYS_NAMED}
    return named | {
        name: value
        for name, value in differing(fields).items()
        if FIELDS[name].changes == "training" and name not in named
    }


def hash_identity(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits, the same for equal identities in any order."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
