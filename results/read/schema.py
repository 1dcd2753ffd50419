"""The tables of a collection: each column's name, type and meaning. SCHEMA.md is this, written out; a test compares."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from harness.record import ADDED_FIELDS

# Raised when a column changes its name, type or meaning, or goes away; a new column does not raise it.
SCHEMA_VERSION = 1
# Columns of runs that came when there were collections already, and what those would have held in them.
ADDED_COLUMNS = {"training": "{}"}
ARROW = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64()}

# How the text below names groups of columns that other modules need as such.
SCORES = ["fid", "inception_score", "inception_score_10", "inception_score_10_std", "kid", "kid_stderr"]
SCORES += ["precision", "recall", "density", "coverage", "fid_infinity"]
POSTERIOR = ["sigma_mean", "sigma_std", "mu_mean", "mu_std", "noise_share", "active_units", "kl", "prior_kl"]
POSTERIOR += ["reconstruction_l1", "collapse"]
NUMBERS = [*SCORES, *(name for name in POSTERIOR if name != "collapse")]
# What is averaged over seeds: not the errors that belong to a single evaluation.
MEASURES = [name for name in NUMBERS if name not in ("inception_score_10_std", "kid_stderr")]
LOWER_IS_BETTER = {"fid", "kid", "fid_infinity", "reconstruction_l1"}
HIGHER_IS_BETTER = {"inception_score", "inception_score_10", "precision", "recall", "density", "coverage"}


@dataclass(frozen=True)
class Column:
    """`type` is string, integer or number (a 64-bit float)."""

    name: str
    type: str
    meaning: str


def _columns(text: str) -> list[Column]:
    rows = (line.strip().split(" | ", 2) for line in text.strip().splitlines())
    return [Column(name, kind, meaning) for name, kind, meaning in rows]


CONFIGURATION = _columns(f"""
    sweep | string | the sweep that first asked for the run; changes no number
    variant | string | what was trained: a name of the README's list, or package.module:Class
    options | string | the variant's parameters, a JSON object with sorted keys
    dataset | string | name of the training set
    image_size | integer | side of the square images, px
    seed | integer | of the training
    epochs | integer | passes over the training set that were asked for
    batch_size | integer | images a step, over all processes
    learning_rate | number | the optimizer's
    latent_dim | integer | dimensions of the code
    architecture | string | of the networks
    channels | integer | 1 or 3; grey images are repeated to 3
    max_images | integer | a subset of the training set; empty: all of it
    mixed_precision | string | no, tf32, bf16 or fp16
    training | string | what differs from {json.dumps(ADDED_FIELDS)}: a JSON object with sorted keys, {{}} for nothing
    eval_every | integer | epochs between evaluations
""")
PROTOCOL_COLUMNS = _columns("""
    protocol | string | paper, clean or published: how the scores were taken
    protocol_id | string | hash of all that changes a score's value; scores of different ids are different quantities
    extractor | string | the network whose features are compared
    sampler | string | where codes came from: prior; gaussian, gmm (fitted to the aggregated posterior); reconstruction
    sampling_seed | integer | of a repeated evaluation, which differs in the codes only; empty: the run's own
    n_real | integer | images of the reference
    n_fake | integer | images generated
""")
SCORE_COLUMNS = _columns("""
    fid | number | Frechet distance of the features, lower is better
    inception_score | number | over one split, higher is better
    inception_score_10 | number | mean over ten splits
    inception_score_10_std | number | standard deviation over the ten splits
    kid | number | kernel distance, unbiased (may be negative), lower is better
    kid_stderr | number | its standard error over subsets
    precision | number | share of generated images inside the real manifold, 0 to 1
    recall | number | share of real images inside the generated manifold, 0 to 1; low: mode collapse
    density | number | of real neighbourhoods around generated images; may exceed 1
    coverage | number | share of real neighbourhoods that hold a generated image, 0 to 1
    fid_infinity | number | FID extrapolated to infinitely many generated images
""")
POSTERIOR_COLUMNS = _columns("""
    sigma_mean | number | mean of sigma of q(z, given x), absolute values, over images and dimensions
    sigma_std | number | standard deviation of the same
    mu_mean | number | mean of mu over images and dimensions
    mu_std | number | standard deviation of the same
    noise_share | number | E[sigma^2] / (Var(mu) + E[sigma^2]), 0 to 1
    active_units | number | dimensions with Var(mu) > 0.01
    kl | number | KL(q(z, given x), prior), mean over images, nats
    prior_kl | number | KL of the aggregated posterior's Gaussian fit to the prior, nats
    reconstruction_l1 | number | mean absolute pixel difference of decoded posterior samples, images in [-1, 1]
    collapse | string | variance (noise share below 5 %), posterior (above 95 %), none, or no posterior
    sigma_mean_smallest_dim | number | mean sigma of the dimension where it is smallest
    sigma_mean_largest_dim | number | mean sigma of the dimension where it is largest
""")
PROGRESS_COLUMNS = _columns("""
    epoch | integer | epochs trained when this was measured; 0: before training
    images_seen | integer | training images seen by then
""")

RUNS = [
    Column("run_id", "string", "name of the run's folder, unique"),
    *CONFIGURATION,
    Column("state", "string", "of the run: queued, running, done, failed"),
    *PROGRESS_COLUMNS,
    *PROTOCOL_COLUMNS,
    *SCORE_COLUMNS,
    *POSTERIOR_COLUMNS,
    *_columns("""
    not_finite | string | names of scores that were recorded as NaN or infinite, separated by spaces
    loss_reconstruction | number | mean over the epoch's steps; likewise the next two
    loss_discriminator | number | nats
    loss_adversary | number | nats
    images_per_second | number | of the training in that epoch
    num_processes | integer | processes that trained it
    interruptions | integer | times that it was stopped or killed, and resumed
    git_commit | string | of the code; -dirty if it was changed
    """),
]
COLUMNS = [column.name for column in RUNS]

PROBLEMS = _columns("""
    path | string | the folder
    run_id | string | its name
    state | string | queued, running, failed, or damaged
    reason | string | why, and how far the run came
""")
PROVENANCE = _columns("""
    run_id | string | the run
    state | string | queued, running, done, failed
    started | string | first launch, UTC, ISO 8601
    updated | string | last change of its status, UTC
    hostname | string | of the last launch
    device | string | cpu or cuda
    gpu | string | name of the GPU; empty on a CPU
    num_processes | integer | processes of the last launch
    zero_stage | integer | DeepSpeed's ZeRO stage in it, 1 or 2; empty: none
    compiled | string | whether torch.compile was used in it, yes or no; empty: not recorded
    versions | string | Python, aaebench, torch, accelerate, numpy
    git_commit | string | of the code
    data_sha256 | string | of the prepared training set
    protocol_id | string | of its scores
    training_hours | number | wall-clock hours of training, from its records
    evaluation_hours | number | wall-clock hours of evaluation
    gpu_hours | number | the two together, times the processes; 0 on a CPU
""")
PROTOCOLS = _columns("""
    protocol_id | string | the id
    field | string | a field of the protocol's definition
    value | string | its value, JSON
""")


def suffixed(columns: Iterable[Column], suffixes: dict[str, str]) -> list[Column]:
    """`<name>_<suffix>` for each column of numbers and each suffix with its meaning."""
    numbers = [column for column in columns if column.name in MEASURES]
    return [
        Column(f"{column.name}_{suffix}", "number", f"{meaning} of {column.name}")
        for column in numbers
        for suffix, meaning in suffixes.items()
    ]


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """The columns as Arrow's, with the schema's version in the metadata (where Parquet files carry it)."""
    fields = [pa.field(column.name, ARROW[column.type]) for column in columns]
    return pa.schema(fields, metadata={"aaebench_schema_version": str(SCHEMA_VERSION)})


def render_columns(columns: Iterable[Column]) -> str:
    """The columns as a Markdown table."""
    lines = ["| column | type | meaning |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{column.name}` | {column.type} | {column.meaning} |" for column in columns)])
