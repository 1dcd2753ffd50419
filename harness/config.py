"""The configuration of one run: frozen, validated once, hashed to a run id. The defaults are the paper's."""

import hashlib
import json
import re
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
    field_validator,
    model_validator,
)

from harness.errors import InputError, unknown
from harness.files import hash_file
from harness.precision import Precision
from harness.protocol import DefinitionLike, ExtractorName, load_named_definition
from harness.record import ADDED_FIELDS
from harness.settings import load_preset, merge_fields
from variants import VARIANTS, Architecture, AutoEncoder, Variant, load_variant
from variants.networks_conv import require_image_size

# Fields that change no number (beyond the last digits, as other hardware does too): what the run is part of, how it is
# compiled, when it saves, where a file lies (its content counts).
NOT_IN_RUN_ID = {"sweep", "compile", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints"}
NOT_IN_RUN_ID |= {"extractor_weights", "feature_weights"}
Sampler = Literal["prior", "gaussian", "gmm"]


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


def _check_file(weights: Path | None) -> Path | None:
    if weights is not None and not weights.is_file():
        raise ValueError(f"there is no file {weights}; name a weights file")
    return weights and weights.absolute()


WeightsFile = Annotated[Path | None, AfterValidator(_check_file)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _paper_batch_size(fields: dict[str, Any]) -> int:
    """1024 at 32 px and 256 at 64 px (paper, section 6.1)."""
    return 1024 if fields.get("image_size", 32) <= 32 else 256


@cache
def _build_adapter(options: type[Variant.Options]) -> TypeAdapter[Any]:
    """Kept: a sweep validates the same variant's options thousands of times."""
    return TypeAdapter(options)


class RunConfig(BaseModel):
    """One run. Fields are in the order in which the command line explains them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    variant: Annotated[str, AfterValidator(check_variant)] = "aae"
    options: dict[str, Any] = Field(default_factory=dict, description="The variant's own parameters")
    dataset: Annotated[str, AfterValidator(check_dataset_name)] = "digits"
    image_size: int = Field(
        32, ge=8, le=128, description="Images are square; the mlp architecture takes 8 to 128 px, conv 32 to 128"
    )
    channels: Literal[1, 3] = Field(3, description="Grey images are repeated to 3 channels unless this is 1")
    max_images: int | None = Field(None, ge=2, description="Use only the first images of the training set")
    seed: int = Field(0, ge=0)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(default_factory=_paper_batch_size, ge=2, description="Over all processes")
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False)
    optimizer: Literal["adam", "adamw"] = "adam"
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Adam's decay rates of the first and second moment")
    weight_decay: float = Field(
        default_factory=lambda fields: 0.01 if fields.get("optimizer") == "adamw" else 0.0,
        ge=0,
        allow_inf_nan=False,
        description="adamw's decoupled decay, adam's L2 term",
    )
    gradient_clipping: float | None = Field(None, gt=0, description="Largest norm of a phase's gradient")
    gradient_accumulation: int = Field(1, ge=1, description="Parts in which each process computes its share of a batch")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decode with moving averages of the decoder's weights"
    )
    sync_batchnorm: bool = Field(False, description="BatchNorm over the batch of all GPUs, not over each one's share")
    latent_dim: int = Field(10, ge=1)
    architecture: Architecture = Field("mlp", description="mlp, the paper's, or conv, DCGAN's, for 32 to 128 px")
    mixed_precision: Precision = "no"
    compile: bool = Field(False, description="torch.compile, and on a single GPU one CUDA graph a step")
    eval_every: int = Field(5, ge=1, description="Epochs between evaluations; the first and last state always are")
    checkpoint_every: int = Field(5, ge=1, description="Epochs between checkpoints; the end always has one")
    checkpoint_minutes: float = Field(15, ge=0, description="Minutes of an epoch after which it is saved at a step")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept, besides the best by FID")
    protocol: DefinitionLike = Field(
        default_factory=lambda: load_named_definition("paper"),
        description="How to score: paper, clean, published, or a YAML file",
    )
    extractor: ExtractorName = Field(
        default_factory=lambda fields: fields["protocol"].extractor, description="Default: the protocol's"
    )
    extractor_weights: WeightsFile = Field(None, description="A weights file instead of the staged or shipped one")
    feature_weights: WeightsFile = Field(None, description="The network whose activations dfc_vae compares")
    samplers: tuple[Sampler, ...] = Field(("prior",), description="Distributions of codes to score, prior first")
    sampling_seeds: int = Field(1, ge=1, le=16, description="Sets of codes that prior samples are scored with")
    n_fake: int | None = Field(
        default_factory=lambda fields: fields["protocol"].n_fake,
        ge=2,
        description="Images generated for a score; default: the protocol's, or as many as real ones",
    )
    sweep: str = Field("", description="The sweep that this run is part of")

    @model_validator(mode="before")
    @classmethod
    def _name_extractor_file(cls, fields: Any) -> Any:
        """`extractor: FILE.pt` is the extractor `torchscript` with that file as its weights."""
        named = fields.get("extractor")
        if isinstance(named, str) and Path(named).suffix in (".pt", ".pth", ".ts"):
            return {**fields, "extractor": "torchscript", "extractor_weights": named}
        return fields

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
    def _check_options(cls, options: dict[str, Any], info: Any) -> dict[str, Any]:
        """Options with the variant's defaults filled in, so that naming a default changes no run id."""
        if "variant" not in info.data:
            return options
        variant = info.data["variant"]
        accepted = load_variant(variant).Options.__dataclass_fields__
        for name, value in options.items():
            if name not in accepted:
                raise ValueError(unknown(f"option of {variant}", name, accepted))
            if isinstance(value, bool) and accepted[name].type is not bool:
                raise ValueError(f"options.{name} = {str(value).lower()} is a truth value, where none belongs")
        adapter = _build_adapter(load_variant(variant).Options)
        return adapter.dump_python(adapter.validate_python(options))

    @field_validator("architecture", mode="after")
    @classmethod
    def _check_image_size(cls, architecture: Architecture, info: Any) -> Architecture:
        if architecture == "conv" and "image_size" in info.data:
            require_image_size(info.data["image_size"])
        return architecture

    @field_validator("extractor_weights", mode="after")
    @classmethod
    def _check_extractor_file(cls, weights: Path | None, info: Any) -> Path | None:
        if weights is None and info.data.get("extractor") == "torchscript":
            raise ValueError("the extractor torchscript needs its file: extractor = FILE.pt")
        return weights

    def build_options(self) -> Variant.Options:
        return load_variant(self.variant).Options(**self.options)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What changes the numbers, and nothing else; a weights file counts by its content."""
        dumped = self.model_dump(mode="json", exclude=NOT_IN_RUN_ID)
        identity = {name: v for name, v in dumped.items() if name not in ADDED_FIELDS or v != ADDED_FIELDS[name]}
        for name in ("extractor", "feature"):
            if (weights := getattr(self, f"{name}_weights")) is not None:
                identity[f"{name}_sha256"] = hash_file(weights)
        return identity

    @cached_property
    def run_id(self) -> str:
        """Readable, and unique by a hash of the identity."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        return f"{self.variant.rpartition(':')[2]}-{self.dataset}-{self.image_size}px-seed{self.seed}-{digest[:12]}"

    @field_validator("samplers", mode="after")
    @classmethod
    def _check_samplers(cls, samplers: tuple[Sampler, ...], info: Any) -> tuple[Sampler, ...]:
        if samplers[:1] != ("prior",) or len(set(samplers)) != len(samplers):
            raise ValueError(f"samplers = {list(samplers)}; name prior first, and each at most once")
        variant = info.data.get("variant", "aae")
        if samplers != ("prior",) and not issubclass(load_variant(variant), AutoEncoder):
            raise ValueError(f"{variant} has no posterior to fit a sampler to; leave samplers at [prior]")
        return samplers


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
        return unknown("field", field, RunConfig.model_fields)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "value_error":  # our own words: they say it all
        return message
    description = RunConfig.model_fields[str(detail["loc"][0])].description if detail["loc"] else None
    return f"{field} = {detail['input']!r}: {message}" + (f" ({description})" if description else "")
