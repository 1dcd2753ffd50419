"""What a score means: everything that changes its value, hashed to a protocol id."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from harness.errors import InputError, unknown

# Part of every protocol id: raise it when a change in this package changes the value of a score.
STATISTICS_VERSION = 2

EXTRACTORS = ("inception", "torchvision", "domain", "torchscript")

# How encoder and decoder normalise while they are evaluated: with the statistics of each batch, as in training and in
# the published procedure, or with the running statistics. With batch statistics a score depends on the batch size.
# `none` stands where no decoder takes part.
Normalisation = Literal["batch", "running", "none"]
Resize = Literal["clean", "bilinear", "antialiased", "none"]
Autocast = Literal["no", "bf16", "fp16"]
Split = Literal["train", "test"]

SHIPPED = files("harness") / "protocols"


def _one_of(kind: str, valid: tuple[str, ...]) -> BeforeValidator:
    def check(name: object) -> object:
        if not isinstance(name, str) or name not in valid:
            raise ValueError(unknown(kind, str(name), valid))
        return name

    return BeforeValidator(check)


ExtractorName = Annotated[str, _one_of("extractor", EXTRACTORS)]


class ProtocolDefinition(BaseModel):
    """How to score, before it is known what: a YAML file, shipped (harness/protocols) or the user's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="Lower-case letters, digits and '_'")
    normalisation: Literal["batch", "running"] = Field(
        description="Encoder and decoder use batch or running statistics"
    )
    batch_size: int | None = Field(None, ge=2, description="Images generated at once; default 1024 at 32 px, else 256")
    n_fake: int | None = Field(None, ge=2, description="Images generated; default: as many as real ones")
    reference: Split = Field("train", description="The split that is the reference: train or test")
    extractor: ExtractorName = Field("inception", description="What makes features of images")
    extractor_sha256: str | None = Field(None, description="What the checksum of its weights has to be")
    resize: Resize | None = Field(None, description="To the extractor's size; default: the extractor's own way")
    size: int | None = Field(None, ge=8, le=1024, description="Default: the extractor's own")
    quantisation: Literal["uint8", "none"] = Field("uint8", description="Generated images become what a PNG holds")
    autocast: Autocast = Field("no", description="Precision of the extractor's forward pass")


@cache
def _load_shipped() -> dict[str, ProtocolDefinition]:
    """By name. Kept: a sweep asks for them thousands of times."""
    definitions = (ProtocolDefinition.model_validate(yaml.safe_load(file.read_text())) for file in SHIPPED.iterdir())
    return {definition.name: definition for definition in definitions}


def load_definition(value: object) -> object:
    """A protocol's fields from a shipped name or a YAML file's path; a mapping stays as it is.

    Raises: ValueError for an unknown name or a file that holds no mapping.
    """
    if isinstance(value, (dict, ProtocolDefinition)):
        return value
    shipped = _load_shipped()
    if isinstance(value, str) and value in shipped:
        return shipped[value]
    if not isinstance(value, str) or Path(value).suffix not in (".yaml", ".yml"):
        raise ValueError(f"{unknown('protocol', str(value), shipped)} (your own: a .yaml file)")
    try:
        fields = yaml.safe_load(Path(value).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the protocol {value}: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{value} holds no mapping of fields to values, as in `normalisation: batch`")
    fields.setdefault("name", Path(value).stem)
    if fields["name"] in shipped:
        raise ValueError(f"{value} names a shipped protocol; give it a name of its own, as in `name: my_protocol`")
    if unexpected := {*map(str, fields)} - {*ProtocolDefinition.model_fields}:
        raise ValueError(unknown("protocol field", min(unexpected), ProtocolDefinition.model_fields))
    return fields


def load_named_definition(name: str) -> ProtocolDefinition:
    """Raises: InputError saying what is wrong with the name, or with the file's fields."""
    try:
        return ProtocolDefinition.model_validate(load_definition(name))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"{name}: {field} = {first['input']!r}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(str(error)) from error


DefinitionLike = Annotated[ProtocolDefinition, BeforeValidator(load_definition)]


def evaluation_batch_size(image_size: int) -> int:
    """1024 at 32 px and 256 at 64 px (paper, section 6.1)."""
    return 1024 if image_size <= 32 else 256


@dataclass(frozen=True)
class Protocol:
    """One way to score, against one reference.

    Scores of different protocol ids are different quantities and never share a table.
    """

    name: str
    normalisation: Normalisation
    batch_size: int  # 0 where no decoder takes part
    data_sha256: str
    n_real: int
    n_fake: int
    extractor: str
    extractor_sha256: str
    resize: str
    quantisation: str = "uint8"
    reference: str = "train"
    autocast: str = "no"
    statistics_version: int = STATISTICS_VERSION

    @property
    def id(self) -> str:
        """The name and a hash of every field."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:10]}"

    def describe(self) -> dict[str, Any]:
        """Every field, and the id that they hash to."""
        return {"id": self.id, **asdict(self)}
