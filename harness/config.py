"""The configuration of one run: frozen, validated once, hashed to a run id. The defaults are the paper's."""

import json
import re
from dataclasses import MISSING, asdict
from dataclasses import fields as dataclass_fields
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.errors import PydanticUserError

from harness.errors import InputError, unknown
from harness.fields import FIELDS, compute_identity, hash_identity
from harness.files import hash_file
from harness.imagenet import EFFICIENTNET, find_efficientnet
from harness.precision import Precision
from harness.protocol import ExtractorName, Protocol, check_file, find_protocol, is_file
from harness.schema import Text
from harness.settings import load_preset, merge_fields, require_text
from variants import VARIANTS, Architecture, AutoEncoder, Variant, load_variant
from variants.networks_conv import require_image_size

Sampler = Literal["prior", "gaussian", "gmm"]
Crop = Literal["squeeze", "center"]
# Each is an extra. (Of Accelerate's others aim wants a filelock older than ours.)
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio", "comet")
# Given beside `protocol`, these become settings of each of the protocols, which alone remember them.
OF_THE_PROTOCOL = ("extractor", "extractor_weights", "n_fake")


def check_dataset_name(name: str) -> str:
    """Raises: ValueError for a name that cannot stand in a run id and in a file's name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{,63}", name):
        raise ValueError(
            f"{name[:64]!r} cannot name a data set: a name has up to 64 lower-case letters, digits, '_' and '-'; "
            "a folder of images becomes one by: aaebench stage --dataset NAME --from FOLDER"
        )
    return name


def check_variant(name: str) -> str:
    """Raises: ValueError for a name that is no variant's and no `module:Class` that can be imported."""
    try:
        load_variant(name)
    except KeyError as error:
        raise ValueError(f"{unknown('variant', name, VARIANTS)} (your own: package.module:Class)") from error
    except (ImportError, TypeError) as error:
        raise ValueError(f"variant {name!r:.80} cannot be loaded: {error!s:.500}") from error
    return name


def _check_network(named: Path | None) -> Path | None:
    """A file's absolute path; EfficientNet goes by its name. Raises: ValueError unless it is there."""
    return named if named == Path(EFFICIENTNET) else check_file(named)


def check_tracker(name: str) -> str:
    """Raises: ValueError for a name that is no tracker's."""
    if name not in TRACKERS:
        raise ValueError(unknown("tracker", name, TRACKERS))
    return name


WeightsFile = Annotated[Path | None, Field(strict=False), AfterValidator(check_file)]
Beta = Annotated[float, Field(**FIELDS["betas"].bounds)]


def _number(name: str, **constraints: Any) -> Any:
    """Default, description and bounds from the table of fields; pydantic's constraints."""
    return _field(name, **FIELDS[name].bounds, **constraints)


def _field(name: str, **constraints: Any) -> Any:
    """Default and description from the table of fields; pydantic's constraints."""
    field = FIELDS[name]
    if callable(field.default):
        return Field(default_factory=field.default, description=field.meaning, **constraints)
    return Field(field.default, description=field.meaning, **constraints)


@cache
def _build_adapter(options: type[Variant.Options]) -> TypeAdapter[Any]:
    """Kept: a sweep validates the same variant's options thousands of times."""
    return TypeAdapter(options)


class RunConfig(BaseModel):
    """One run. Fields are in the order in which the command line explains them; harness/fields.py explains each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)

    variant: Annotated[str, AfterValidator(check_variant)] = _field("variant")
    options: Any = _field("options")
    dataset: Annotated[str, AfterValidator(check_dataset_name)] = _field("dataset")
    image_size: int = _number("image_size")
    channels: Literal[1, 3] = _field("channels")
    crop: Crop = _field("crop")
    max_images: int | None = _number("max_images")
    seed: int = _number("seed")
    epochs: int = _number("epochs")
    batch_size: int = _number("batch_size")
    learning_rate: float = _number("learning_rate")
    optimizer: Literal["adam", "adamw"] = _field("optimizer")
    betas: tuple[Beta, Beta] = _field("betas", strict=False)
    weight_decay: float = _number("weight_decay")
    gradient_clipping: float | None = _number("gradient_clipping")
    gradient_accumulation: int = _number("gradient_accumulation")
    ema_decay: float | None = _number("ema_decay")
    sync_batchnorm: bool = _field("sync_batchnorm")
    latent_dim: int = _number("latent_dim")
    architecture: Architecture = _field("architecture")
    mixed_precision: Precision = _field("mixed_precision")
    feature_weights: Annotated[Path | None, Field(strict=False), AfterValidator(_check_network)] = _field(
        "feature_weights"
    )
    feature_sha256: str | None = _field("feature_sha256")
    step: Literal["auto", "eager", "graph", "compiled"] = _field("step")
    checkpoint_every: int = _number("checkpoint_every")
    checkpoint_minutes: float = _number("checkpoint_minutes")
    keep_checkpoints: int = _number("keep_checkpoints")
    keep_weights: Literal["none", "evaluations"] = _field("keep_weights")
    extractor: ExtractorName | None = _field("extractor", exclude=True)
    extractor_weights: WeightsFile = _field("extractor_weights", exclude=True)
    n_fake: int | None = _number("n_fake", exclude=True)
    protocol: tuple[Protocol, ...] = _field("protocol", min_length=1)
    samplers: tuple[Sampler, ...] = _field("samplers", strict=False)
    sampling_seeds: int = _number("sampling_seeds")
    mechanisms: bool = _field("mechanisms")
    eval_every: int = _number("eval_every")
    eval_when: Literal["during", "after", "separately"] = _field("eval_when")
    trackers: tuple[Annotated[str, AfterValidator(check_tracker)], ...] = _field("trackers", strict=False)
    sweep: Text = _field("sweep")
    search: dict[str, dict[str, list[Any]]] = _field("search")

    @field_validator("protocol", mode="before")
    @classmethod
    def _settle_protocols(cls, named: Any, info: Any) -> Any:
        """A name, a file or fields, or a list of them; the settings that were given beside it hold for each."""
        settings = {name: value for name in OF_THE_PROTOCOL if (value := info.data.get(name)) is not None}
        listed = named if isinstance(named, (list, tuple)) else [named]
        protocols = [find_protocol(each, **settings) for each in listed]
        names = [protocol.name for protocol in protocols]
        if len(set(names)) < len(names):
            raise ValueError(f"protocol = {names}; name each at most once")
        return tuple(protocols)

    @model_validator(mode="before")
    @classmethod
    def _hash_feature_weights(cls, fields: Any) -> Any:
        """The network that dfc_vae compares with counts by its content, not by where it lies."""
        named = fields.get("feature_weights")
        if named is None and fields.get("feature_sha256") is not None:
            raise ValueError("feature_sha256 follows from feature_weights; name the file")
        if not isinstance(named, (str, Path)):
            return fields
        file = find_efficientnet() if str(named) == EFFICIENTNET else Path(named)
        if not is_file(file):
            return fields
        digest = hash_file(file)
        if fields.get("feature_sha256") not in (None, digest):
            raise ValueError(f"{named} is another file than when the run began; bring that one back")
        return {**fields, "feature_sha256": digest}

    @field_validator("*", mode="before")
    @classmethod
    def _check_booleans(cls, value: object, info: Any) -> object:
        """YAML reads a bare `no` as false; elsewhere a truth value is no number."""
        if isinstance(value, bool) and info.field_name == "mixed_precision" and not value:
            return "no"
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{info.field_name} = {str(value).lower()} is a truth value, where none belongs")
        return value

    @field_validator("options", mode="after")
    @classmethod
    def _build_options(cls, options: Any, info: Any) -> Any:
        """The variant's own dataclass."""
        if "variant" not in info.data:
            return options
        variant = info.data["variant"]
        kind = load_variant(variant).Options
        if isinstance(options, kind):
            return options
        if not isinstance(options, dict):
            raise ValueError(f"options = {options!r} is no mapping of names to values, as in options: {{n: 3}}")
        accepted = kind.__dataclass_fields__
        for name, value in options.items():
            if name not in accepted:
                raise ValueError(unknown(f"option of {variant}", str(name), accepted))
            if isinstance(value, bool) and accepted[name].type is not bool:
                raise ValueError(f"options.{name} = {str(value).lower()} is a truth value, where none belongs")
        try:
            return _build_adapter(kind).validate_json(json.dumps(options), strict=True)
        except (PydanticUserError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"options of {variant} are numbers, text, truth values or lists of them: {reason}"
            ) from error

    @field_serializer("options")
    def _dump_options(self, options: Any) -> dict[str, Any]:
        return asdict(options)

    @field_validator("architecture", mode="after")
    @classmethod
    def _check_image_size(cls, architecture: Architecture, info: Any) -> Architecture:
        if architecture == "conv" and "image_size" in info.data:
            require_image_size(info.data["image_size"])
        return architecture

    @field_validator("trackers", mode="before")
    @classmethod
    def _list_trackers(cls, named: Any) -> Any:
        """A name, or a list of names, each once."""
        if not isinstance(named, (list, tuple)):
            return [named]
        if len({*map(str, named)}) < len(named):
            raise ValueError(f"trackers = {list(named)}; name each at most once")
        return named

    @field_validator("samplers", mode="after")
    @classmethod
    def _check_samplers(cls, samplers: tuple[Sampler, ...], info: Any) -> tuple[Sampler, ...]:
        if samplers[:1] != ("prior",) or len(set(samplers)) != len(samplers):
            raise ValueError(f"samplers = {list(samplers)}; name prior first, and each at most once")
        variant = info.data.get("variant", "aae")
        if samplers != ("prior",) and not issubclass(load_variant(variant), AutoEncoder):
            raise ValueError(f"{variant} has no posterior to fit a sampler to; leave samplers at [prior]")
        return samplers

    @field_validator("mechanisms", mode="after")
    @classmethod
    def _check_mechanisms(cls, mechanisms: bool, info: Any) -> bool:
        variant = info.data.get("variant", "aae")
        if mechanisms and not issubclass(load_variant(variant), AutoEncoder):
            raise ValueError(f"{variant} has no encoder whose mechanisms could be measured; leave mechanisms at false")
        return mechanisms

    @model_validator(mode="after")
    def _leave_them_to_the_protocols(self) -> "RunConfig":
        """The settings of protocols are theirs now: one configuration in two spellings is one configuration."""
        for name in OF_THE_PROTOCOL:
            object.__setattr__(self, name, None)
        return self

    @property
    def keeps_weights(self) -> bool:
        """Whether the weights of every evaluated epoch are kept: late evaluations need them."""
        return self.keep_weights == "evaluations" or self.eval_when != "during"

    def widen(self, other: "RunConfig") -> "RunConfig":
        """Two requests of one training as one: the larger budget, and every protocol, sampler and sampling seed;
        mechanisms if one of them asks.

        Raises: ValueError if they are the same, or differ in what is no question of more or less.
        """
        protocols = {protocol.name: protocol for protocol in self.protocol}
        clash = next((p.name for p in other.protocol if protocols.get(p.name, p) != p), None)
        if clash is not None:
            raise ValueError(f"the protocol {clash} is another there; give the two different names, or score it later")
        both = {
            "epochs": max(self.epochs, other.epochs),
            "protocol": (*self.protocol, *(p for p in other.protocol if p.name not in protocols)),
            "samplers": tuple(dict.fromkeys((*self.samplers, *other.samplers))),
            "sampling_seeds": max(self.sampling_seeds, other.sampling_seeds),
            "mechanisms": self.mechanisms or other.mechanisms,
        }
        if self == other or self.model_copy(update=both) != other.model_copy(update=both):
            raise ValueError("they differ in nothing that a run could have more of")
        return self.model_copy(update=both)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What changes the trained weights, where it is not the default: as JSON values."""
        fields = self.model_dump(mode="json")
        kind = type(self.options)
        required = {f.name for f in dataclass_fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        usual = asdict(kind(**{name: getattr(self.options, name) for name in required}))
        fields["options"] = {
            name: value for name, value in fields["options"].items() if name in required or value != usual[name]
        }
        return compute_identity(fields)

    @cached_property
    def run_id(self) -> str:
        """Readable, and unique by a hash of the identity."""
        name = self.variant.rpartition(":")[2]
        return f"{name}-{self.dataset}-{self.image_size}px-seed{self.seed}-{hash_identity(self.identity)}"


def build_config(*layers: dict[str, Any]) -> RunConfig:
    """A configuration from layers of fields, the later ones winning; `options` are merged name by name.

    A layer may be written flat (`{"options.n": 5}`) and may name a `preset`, whose fields come before all layers.
    Raises: InputError naming each field that is wrong and what would be right.
    """
    fields: dict[str, Any] = {}
    for layer in layers:
        merge_fields(fields, layer)
    preset = fields.pop("preset", None)
    if preset is not None:
        overrides, fields = fields, {}
        merge_fields(fields, load_preset(preset))
        merge_fields(fields, overrides)
    try:
        require_text(fields)
    except ValueError as error:
        raise InputError(str(error)) from error
    try:
        return RunConfig.model_validate(fields)
    except ValidationError as error:
        # A default that depends on a field in error has nothing to add.
        details = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
        raise InputError("\n".join(_explain(detail) for detail in details)) from error


def _explain(detail: Any) -> str:
    """One line for one of pydantic's errors."""
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown("field", field, RunConfig.model_fields)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "value_error":  # our own words: they say it all
        return f"{message:.900}"
    row = FIELDS.get(str(detail["loc"][0])) if detail["loc"] else None
    if row is not None and row.allowed is not None and detail["type"] not in ("missing", "too_long", "tuple_type"):
        kind = "an integer" if detail["type"].startswith("int_") else "a number"
        message = f"it must be {kind} {row.allowed}"
    return f"{field} = {detail['input']!r:.80}: {message}" + (f" ({row.meaning})" if row else "")
