"""The tables of a collection: each column's name, type and meaning. SCHEMA.md is this, written out; a test compares."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from harness.fields import FIELDS
from harness.measures import Measure, select

# Raised when a column changes its name, type or meaning, or goes away; a new column does not raise it.
SCHEMA_VERSION = 2
LARGEST = 1e30  # a score beyond it is none, and counts as not finite: of sums of squares of such, nothing is left
ARROW = {"string": pa.large_string(), "integer": pa.int64(), "number": pa.float64()}

# Names of measures, as columns have them.
SCORES = [measure.name for measure in select("eval")]
POSTERIOR = [*(measure.name for measure in select("posterior")), "collapse"]
NUMBERS = [measure.name for measure in select()]
# What is averaged over seeds: not the errors that belong to a single evaluation.
OVER_SEEDS = [measure.name for measure in select(over_seeds=True)]
LOWER_IS_BETTER = {measure.name for measure in select() if measure.better == "lower"}
HIGHER_IS_BETTER = {measure.name for measure in select() if measure.better == "higher"}


@dataclass(frozen=True)
class Column:
    """`type` is string, integer or number (a 64-bit float)."""

    name: str
    type: str
    meaning: str


def _columns(text: str) -> list[Column]:
    rows = (line.strip().split(" | ", 2) for line in text.strip().splitlines())
    return [Column(name, kind, meaning) for name, kind, meaning in rows]


def _columns_of(measures: Iterable[Measure]) -> list[Column]:
    return [Column(measure.name, "number", measure.meaning) for measure in measures]


CONFIGURATION = _columns("""
    sweep | string | the sweep that first asked for the run; changes no number
    variant | string | what was trained: a variant's name, or package.module:Class
    options | string | the variant's parameters, a JSON object with sorted keys
    dataset | string | name of the training set
    image_size | integer | side of the square images, px
    seed | integer | of the training
    epochs | integer | the budget: passes over the training set
    batch_size | integer | images a step, over all processes
    learning_rate | number | the optimizer's
    latent_dim | integer | dimensions of the code
    architecture | string | of the networks
    channels | integer | 1 or 3; grey images are repeated to 3
    max_images | integer | a subset of the training set; empty: all of it
    mixed_precision | string | no, tf32, bf16 or fp16
    training | string | JSON, sorted keys: other settings that are no defaults; `data` if a published set is not whole
    eval_every | integer | epochs between evaluations
    search | string | JSON: of each field that a search drew, its distribution; {}: no trial of a search
""")
NO_SEARCH = "{}"
# Fields of the configuration that change the trained weights and have a column of their own; the others are `training`.
OWN_COLUMNS = [column.name for column in CONFIGURATION if column.name in FIELDS]
TRAINING_COLUMNS = [name for name in OWN_COLUMNS if FIELDS[name].changes == "training"]
IN_TRAINING = [name for name, field in FIELDS.items() if field.changes == "training" and name not in OWN_COLUMNS]
PROTOCOL_COLUMNS = _columns("""
    protocol | string | paper, clean or published: how the scores were taken
    protocol_id | string | hash of all that changes a score's value; scores of different ids are different quantities
    extractor | string | the network whose features are compared
    sampler | string | where codes came from: prior; gaussian, gmm (fitted to the aggregated posterior); reconstruction
    sampling_seed | integer | of a repeated evaluation, which differs in the codes only; empty: the run's own
    n_real | integer | images of the reference
    n_fake | integer | images generated
""")
SCORE_COLUMNS = _columns_of(select("eval"))
POSTERIOR_COLUMNS = [
    *_columns_of(select("posterior")),
    *_columns("""
    collapse | string | variance (noise share below 5 %), posterior (above 95 %), none, or no posterior
    sigma_mean_smallest_dim | number | mean sigma of the dimension where it is smallest
    sigma_mean_largest_dim | number | mean sigma of the dimension where it is largest
    """),
]
MECHANISM_COLUMNS = _columns_of(select("mechanism"))
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
    *MECHANISM_COLUMNS,
    *_columns("""
    not_finite | string | names of scores that were recorded as NaN, infinite or beyond 1e30, separated by spaces
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
    state | string | queued, running, failed, damaged, or odd: finished, and far off the other seeds of its cell
    reason | string | why, and how far the run came
""")
PROVENANCE = _columns("""
    run_id | string | the run
    sweep | string | of its configuration, as the next three: cost by sweep and cell
    variant | string | what was trained
    dataset | string | on what
    image_size | integer | pixels
    state | string | queued, running, done, failed
    started | string | first launch, UTC, ISO 8601
    updated | string | last change of its status, UTC
    hostname | string | of the last launch
    device | string | cpu or cuda
    gpu | string | name of the GPU; empty on a CPU
    num_processes | integer | processes of the last launch
    zero_stage | integer | DeepSpeed's ZeRO stage in it, 1 or 2; empty: none
    step | string | how its steps ran: eager, graph or compiled; empty: not recorded
    seeds_at_once | integer | how many runs, of as many seeds, trained side by side in it; empty: not recorded
    versions | string | Python, aaebench, torch, accelerate, numpy
    git_commit | string | of the code
    data_sha256 | string | of the prepared training set
    protocol_ids | string | of its evaluations, separated by spaces
    training_hours | number | wall-clock hours of training, from its records
    evaluation_hours | number | wall-clock hours of evaluation
    gpu_hours | number | the two together, times the processes; 0 on a CPU
    startup_hours | number | from the start of each launch to its first look at the data: mostly imports
    data_hours | number | of loading data, reference statistics and networks
    checkpoint_hours | number | of saving, but for the last checkpoint
    posterior_hours | number | of evaluation_hours: the encoder's pass over the training set
    codes_hours | number | of them: drawing codes
    decode_hours | number | of them: the decoder
    resize_hours | number | of them: to the extractor's size
    forward_hours | number | of them: the extractor
    statistics_hours | number | of them: sums over features
    scores_hours | number | of them: scores of these sums
    energy_kwh | number | of the GPUs, by NVML, while it was launched; empty: a CPU, a shared GPU, or not recorded
""")
PROTOCOLS = _columns("""
    protocol_id | string | the id
    field | string | a field of the protocol's definition
    value | string | its value, JSON
""")


def suffixed(columns: Iterable[Column], suffixes: dict[str, str]) -> list[Column]:
    """`<name>_<suffix>` for each column of numbers and each suffix with its meaning."""
    numbers = [column for column in columns if column.name in OVER_SEEDS]
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
