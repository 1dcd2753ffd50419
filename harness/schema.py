"""What the files of a run folder may say, once: they may be a stranger's, so readers check them like a user's input.

No torch. schemas/ holds the same as JSON Schema, for other tools that read or write run folders; it is written by
`python -m harness.schema`, and a test compares. Whoever writes may add keys: readers ignore those that they don't know.
Null stands for what is not known. Scores and losses may be NaN or infinite, everything else is finite.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SkipValidation,
    TypeAdapter,
    ValidationError,
    create_model,
    with_config,
)
from typing_extensions import TypedDict

from harness.fields import FIELDS
from harness.measures import Group, select
from harness.record import PARTS_OF_AN_EVALUATION, EvaluationFolder, Key, Record, RunFolder, State, key_of

SCHEMAS = Path(__file__).with_name("schemas")
DATASET_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
MOST_SHOWN = 80  # characters of a wrong value

# What becomes part of a file's name is a name; what is shown is text on one line, which no terminal obeys.
Dataset = Annotated[str, Field(pattern=DATASET_NAME)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")]
Variant = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}(:[A-Za-z_][A-Za-z0-9_]{0,63})?$")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63})?$")]
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$", max_length=1000)]
Message = Annotated[str, Field(max_length=100_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]  # since 1970, or of a duration
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Scalar = bool | Integer | Finite | Text | None


class _File(BaseModel):
    """Types are not converted: "1", 1.0 and true are no integers."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


class AskedProtocol(_File):
    """How to score while the run trains."""

    name: Name


class Config(_File):
    """config.json: what is trained, and what was asked to be measured. harness/fields.py says what each field means."""

    variant: Variant
    options: dict[OptionName, Scalar | list[Scalar]]
    dataset: Dataset
    image_size: int = Field(**FIELDS["image_size"].bounds)
    channels: Literal[1, 3]
    max_images: int | None = Field(**FIELDS["max_images"].bounds)
    seed: int = Field(**FIELDS["seed"].bounds)
    epochs: int = Field(**FIELDS["epochs"].bounds)
    batch_size: int = Field(**FIELDS["batch_size"].bounds)
    learning_rate: float = Field(**FIELDS["learning_rate"].bounds)
    latent_dim: int = Field(**FIELDS["latent_dim"].bounds)
    architecture: Name
    mixed_precision: Name
    eval_every: int = Field(**FIELDS["eval_every"].bounds)
    protocol: list[AskedProtocol]
    sweep: Text
    crop: Name = "squeeze"
    optimizer: Name = "adam"
    betas: Annotated[list[Finite], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: float = Field(0.0, **FIELDS["weight_decay"].bounds)
    gradient_clipping: float | None = Field(None, **FIELDS["gradient_clipping"].bounds)
    gradient_accumulation: int = Field(1, **FIELDS["gradient_accumulation"].bounds)
    ema_decay: float | None = Field(None, **FIELDS["ema_decay"].bounds)
    sync_batchnorm: bool = False
    feature_sha256: Sha256 | None = None
    search: dict[FieldName, dict[Name, list[Scalar | list[Scalar]]]] = {}


class _Launch(_File):
    started: Seconds | None = None
    epoch: Count = 0


class Environment(_Launch):
    """environment.json: where and with what the run ran last; `launches` holds the same of every launch."""

    record_version: Count | None = None
    run_id: Text | None = None
    git_commit: Text | None = None
    versions: dict[Name, Text] | None = None
    hostname: Text | None = None
    device: Text | None = None
    gpu: Text | None = None
    cpus: Count | None = None
    threads: Count | None = None
    num_processes: Positive | None = None
    distributed_type: Text | None = None
    zero_stage: Count | None = None
    step: Literal["eager", "graph", "compiled"] | None = None
    seeds_at_once: int | None = None
    command: list[str] | None = None
    data_sha256: Sha256 | None = None
    launches: list[_Launch] | None = None


class Status(_File):
    """status.json: the run's state, why, and how far it is. `reason` may be of several lines, as errors are."""

    state: State
    reason: Message = ""
    epoch: Count = 0
    epochs: Count = 0
    interruptions: Count = 0
    energy_kwh: float | None = None  # of the GPUs, in all launches; absent where one could not tell
    updated: Seconds = 0


@with_config(ConfigDict(strict=True))
class EpochRecord(TypedDict, extra_items=float | None):  # pyright: ignore[reportGeneralTypeIssues]
    """A line of records.jsonl: an epoch of the training. Every other key is a number: loss/<phase>, time/<what>."""

    epoch: Count
    images_seen: Count


class Protocol(_File):
    """evaluations/<id>/protocol.json: all that the scores there depend on, hashed to the id; and `floor`: what real

    images score against real images under it.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,99}-[a-z0-9_]{1,64}$")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,99}$")]
    extractor: Name
    n_real: Count
    n_fake: Count
    normalisation: Name | None = None
    batch_size: Count | None = None
    data_sha256: Sha256 | None = None
    extractor_sha256: Text | None = None
    resize: Text | None = None
    quantisation: Name | None = None
    reference: Name | None = None
    autocast: Name | None = None
    statistics_version: Count | None = None
    floor: dict[OptionName, dict[OptionName, float | None]] = {}


class Histogram(_File):
    """Counts of values between neighbouring edges, which rise, and of which there is one more."""

    edges: Annotated[list[Finite], Field(min_length=2)]
    counts: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=1)]


# A run holds thousands of their numbers, at which only figures look: these ask `is_histogram`.
LaterHistogram = SkipValidation[Histogram | None]


class _Place(_File):
    epoch: Count
    images_seen: Count


def _seconds(parts: Sequence[str]) -> dict[str, Any]:
    return {f"{part}_seconds": (float | None, Field(None, alias=f"time/{part}_seconds")) for part in parts}


_Line: type[BaseModel] = create_model("_Line", __base__=_Place, **_seconds(("evaluation", *PARTS_OF_AN_EVALUATION)))


def _measures(group: Group) -> dict[str, Any]:
    return {
        measure.name: (float | None, Field(None, alias=measure.key, description=measure.meaning))
        for measure in select(group)
    }


Scores: type[BaseModel] = create_model(
    "Scores",
    __base__=_Line,
    __doc__="A line of evaluations/<id>/records.jsonl: what the images of one sampler and sampling seed score.",
    sampler=(Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")], ...),
    sampling_seed=(Count, 0),
    **_measures("eval"),
)
Posterior: type[BaseModel] = create_model(
    "Posterior",
    __base__=_Line,
    __doc__="A line of evaluations/<id>/records.jsonl: what has become of the posterior q(z|x). It has no `sampler`.",
    collapse=(
        Literal["variance", "posterior", "none", "no posterior"] | None,
        Field(None, alias="posterior/collapse"),
    ),
    sigma_mean_per_dim=(list[float] | None, Field(None, alias="posterior/sigma_mean_per_dim")),
    mu_histogram=(LaterHistogram, Field(None, alias="posterior/mu_histogram")),
    sigma_histogram=(LaterHistogram, Field(None, alias="posterior/sigma_histogram")),
    **_measures("posterior"),
)
Mechanisms: type[BaseModel] = create_model(
    "Mechanisms",
    __base__=_Line,
    __doc__="A line of evaluations/<id>/records.jsonl: what the mechanisms do that a variant is said to have.",
    part=(Literal["mechanisms"], ...),
    **_measures("mechanism"),
)

# By the name of the JSON Schema: what it describes.
FILES: dict[str, Any] = {
    "config": Config,
    "environment": Environment,
    "status": Status,
    "record": EpochRecord,
    "protocol": Protocol,
    "evaluation": Scores | Mechanisms | Posterior,
}
_EPOCHS: TypeAdapter[Any] = TypeAdapter(list[EpochRecord])
_SCORES = TypeAdapter(list[Scores])  # pyright: ignore[reportInvalidTypeForm]
_POSTERIORS = TypeAdapter(list[Posterior])  # pyright: ignore[reportInvalidTypeForm]
_MECHANISMS = TypeAdapter(list[Mechanisms])  # pyright: ignore[reportInvalidTypeForm]


def _list_kept() -> TypeAdapter[list[Record]]:
    """Lines of all kinds, with what collectors keep of them, by key; all else is passed over unread."""
    fields = {**Scores.model_fields, **Mechanisms.model_fields, **Posterior.model_fields}
    kept: dict[str, Any] = {"epoch": Count, "images_seen": Count}
    for name, field in fields.items():
        if name not in kept and field.annotation != Histogram | None:
            kept[field.alias or name] = NotRequired[Annotated[field.annotation, None, *field.metadata]]
    return TypeAdapter(list[with_config(ConfigDict(strict=True))(TypedDict("Line", kept))])  # pyright: ignore


_KEPT = _list_kept()
_OBJECTS: dict[str, TypeAdapter[Any]] = {
    name: TypeAdapter(FILES[name]) for name in ("config", "environment", "status", "protocol")
}


def check_object(kind: Literal["config", "environment", "status", "protocol"], content: dict[str, Any]) -> None:
    """Raises: ValueError naming the file, the field and what is wrong, unless the content of `kind`.json is valid."""
    try:
        _OBJECTS[kind].validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{kind}.json: {_explain(first, first['loc'])}") from error


def check_records(records: Sequence[Record]) -> None:
    """Raises: ValueError unless every line of a run's records is valid."""
    _check_lines(_EPOCHS, records, "records.jsonl")


def check_evaluation(lines: Sequence[Record]) -> None:
    """Raises: ValueError unless every line of an evaluation is valid."""
    kinds: dict[TypeAdapter[Any], list[Record]] = {_SCORES: [], _MECHANISMS: [], _POSTERIORS: []}
    for line in lines:
        kinds[_SCORES if "sampler" in line else _MECHANISMS if "part" in line else _POSTERIORS].append(line)
    for adapter, own in kinds.items():
        _check_lines(adapter, own, "records.jsonl of an evaluation")


def read_epochs(folder: RunFolder) -> list[Record]:
    """What collectors want of a run's records: as RunFolder.read_records, checked, in a quarter of the time.

    Raises: OSError, ValueError as read_records and check_records do.
    """
    file = folder.path / "records.jsonl"
    lines = _read_whole(_EPOCHS, file)
    if lines is None:
        lines = folder.read_records()
        check_records(lines)
    return lines


def read_measured(evaluation: EvaluationFolder) -> list[Record]:
    """What collectors want of an evaluation: as EvaluationFolder.read, checked, without what no table has a column for.

    Raises: OSError, ValueError as check_evaluation does.
    """
    lines = _read_whole(_KEPT, evaluation.path / "records.jsonl")
    if lines is None:
        lines = evaluation.read()
        check_evaluation(lines)
    found: dict[Key, Record] = {}
    for line in lines:
        found.setdefault(key_of(line), line)
    return list(found.values())


def _read_whole(adapter: TypeAdapter[list[Record]], file: Path) -> list[Record] | None:
    """The lines of a file in which each is whole and valid, parsed and checked in one go; None for any other file."""
    if not file.is_file():
        return None
    content = file.read_bytes()
    try:
        return adapter.validate_json(b"[" + b",".join(content.splitlines()) + b"]")
    except ValidationError:
        return None


def is_histogram(value: object) -> bool:
    """Whether a line's value is a valid Histogram with one edge more than counts."""
    try:
        found = Histogram.model_validate(value)
    except ValidationError:
        return False
    return len(found.edges) == len(found.counts) + 1


def build_json_schemas() -> dict[str, dict[str, JsonValue]]:
    """The JSON Schema of each of FILES."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: dialect | TypeAdapter(kind).json_schema() for name, kind in FILES.items()}


def _check_lines(adapter: TypeAdapter[Any], lines: Sequence[Record], file: str) -> None:
    try:
        adapter.validate_python(lines)
    except ValidationError as error:
        first = error.errors()[0]
        number, *location = first["loc"]
        where = f" in epoch {_shorten(lines[int(number)].get('epoch'))}"
        raise ValueError(f"{file}: {_explain(first, location, where)}") from error


def _explain(error: Any, location: Sequence[int | str], where: str = "") -> str:
    """`image_size is 'many': Input should be a valid integer`."""
    if error["type"] == "missing":
        return f"missing {'.'.join(map(str, location))!r}"
    field = _shorten(".".join(map(str, location)), quoted=False)
    return f"{field} is {_shorten(error['input'])}{where}: {error['msg'][:MOST_SHOWN]}"


def _shorten(value: object, quoted: bool = True) -> str:
    text = ascii(value) if quoted else ascii(value)[1:-1]
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


if __name__ == "__main__":
    SCHEMAS.mkdir(exist_ok=True)
    for name, schema in build_json_schemas().items():
        file = SCHEMAS / f"{name}.schema.json"  # config.json and the like would make a run folder of it
        file.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        print(file)
