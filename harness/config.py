"""The configuration of one run: frozen, validated once, hashed to a run id. The defaults are the paper's."""

import re
from dataclasses import asdict
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

from harness.errors import InputError, unknown
from harness.fields import FIELDS, compute_identity, hash_identity
from harness.files import hash_file
from harness.precision import Precision
from harness.protocol import ExtractorName, Protocol, check_file, find_protocol
from harness.settings import load_preset, merge_fields
from variants import VARIANTS, Architecture, AutoEncoder, Variant, load_variant
from variants.networks_conv import require_image_size

Sampler = Literal["prior", "gaussian", "gmm"]
Crop = Literal["squeeze", "center"]
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
        raise ValueError(f"variant {name!r} cannot be loaded: {error}") from error
    return name


WeightsFile = Annotated[Path | None, AfterValidator(check_file)]
Beta = Annotated[float, Field(ge=0, lt=1)]


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

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    variant: Annotated[str, AfterValidator(check_variant)] = _field("variant")
    options: Any = _field("options")
    dataset: Annotated[str, AfterValidator(check_dataset_name)] = _field("dataset")
    image_size: int = _field("image_size", ge=8, le=128)
    channels: Literal[1, 3] = _field("channels")
    crop: Crop = _field("crop")
    max_images: int | None = _field("max_images", ge=2)
    seed: int = _field("seed", ge=0, lt=2**63)
    epochs: int = _field("epochs", ge=1)
    batch_size: int = _field("batch_size", ge=2)
    learning_rate: float = _field("learning_rate", gt=0, allow_inf_nan=False)
    optimizer: Literal["adam", "adamw"] = _field("optimizer")
    betas: tuple[Beta, Beta] = _field("betas")
    weight_decay: float = _field("weight_decay", ge=0, allow_inf_nan=False)
    gradient_clipping: float | None = _field("gradient_clipping", gt=0)
    gradient_accumulation: int = _field("gradient_accumulation", ge=1)
    ema_decay: float | None = _field("ema_decay", gt=0, lt=1)
    sync_batchnorm: bool = _field("sync_batchnorm")
    latent_dim: int = _field("latent_dim", ge=1)
    architecture: Architecture = _field("architecture")
    mixed_precision: Precision = _field("mixed_precision")
    feature_weights: WeightsFile = _field("feature_weights")
    feature_sha256: str | None = _field("feature_sha256")
    compile: bool = _field("compile")
    checkpoint_every: int = _field("checkpoint_every", ge=1)
    checkpoint_minutes: float = _field("checkpoint_minutes", ge=0)
    keep_checkpoints: int = _field("keep_checkpoints", ge=1)
    keep_weights: Literal["none", "evaluations"] = _field("keep_weights")
    extractor: ExtractorName | None = _field("extractor", exclude=True)
    extractor_weights: WeightsFile = _field("extractor_weights", exclude=True)
    n_fake: int | None = _field("n_fake", ge=2, exclude=True)
    protocol: tuple[Protocol, ...] = _field("protocol", min_length=1)
    samplers: tuple[Sampler, ...] = _field("samplers")
    sampling_seeds: int = _field("sampling_seeds", ge=1, le=16)
    eval_every: int = _field("eval_every", ge=1)
    eval_when: Literal["during", "after"] = _field("eval_when")
    sweep: str = _field("sweep")
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
        if not isinstance(named, (str, Path)) or not Path(named).is_file():
            return fields
        digest = hash_file(Path(named))
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
        return _build_adapter(kind).validate_python(options)

    @field_serializer("options")
    def _dump_options(self, options: Any) -> dict[str, Any]:
        return asdict(options)

    @field_validator("architecture", mode="after")
    @classmethod
    def _check_image_size(cls, architecture: Architecture, info: Any) -> Architecture:
        if architecture == "conv" and "image_size" in info.data:
            require_image_size(info.data["image_size"])
        return architecture

    @field_validator("samplers", mode="after")
    @classmethod
    def _check_samplers(cls, samplers: tuple[Sampler, ...], info: Any) -> tuple[Sampler, ...]:
        if samplers[:1] != ("prior",) or len(set(samplers)) != len(samplers):
            raise ValueError(f"samplers = {list(samplers)}; name prior first, and each at most once")
        variant = info.data.get("variant", "aae")
        if samplers != ("prior",) and not issubclass(load_variant(variant), AutoEncoder):
            raise ValueError(f"{variant} has no posterior to fit a sampler to; leave samplers at [prior]")
        return samplers

    @model_validator(mode="after")
    def _leave_them_to_the_protocols(self) -> "RunConfig":
        """The settings of protocols are theirs now: one configuration in two spellings is one configuration."""
        for name in OF_THE_PROTOCOL:
            object.__setattr__(self, name, None)
        return self

    @property
    def keeps_weights(self) -> bool:
        """Whether the weights of every evaluated epoch are kept: late evaluations need them."""
        return self.keep_weights == "evaluations" or self.eval_when == "after"

    def widen(self, other: "RunConfig") -> "RunConfig":
        """Two requests of one training as one: the larger budget, and every protocol, sampler and sampling seed.

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
        }
        if self == other or self.model_copy(update=both) != other.model_copy(update=both):
            raise ValueError("they differ in nothing that a run could have more of")
        return self.model_copy(update=both)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What changes the trained weights, where it is not the default: as JSON values."""
        fields = self.model_dump(mode="json")
        usual = asdict(_build_adapter(type(self.options)).validate_python({}))
        fields["options"] = {name: value for name, value in fields["options"].items() if value != usual[name]}
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
        return RunConfig.model_validate(fields)
    except ValidationError as error:
        # A default that depends on a field in error has nothing to add.
        details = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
        raise InputError("\n".join(_explain(detail) for detail in details)) from error


def _explain(detail: Any) -> str:
    """One line for one of pydantic's errors."""
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return unknown("field", field, [*RunConfig.model_fields, *OF_THE_PROTOCOL])
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "value_error":  # our own words: they say it all
        return message
    description = FIELDS[str(detail["loc"][0])].meaning if detail["loc"] and detail["loc"][0] in FIELDS else None
    return f"{field} = {detail['input']!r}: {message}" + (f" ({description})" if description else "")
