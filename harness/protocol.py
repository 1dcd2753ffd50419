"""How to score. A Protocol says it whatever is scored; a Reading is a protocol bound to data and weights.

Protocols are YAML files: those in harness/protocols by their names, or a user's own.
"""

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness.errors import InputError, unknown
from harness.fields import FIELDS
from harness.imagenet import EFFICIENTNET
from harness.settings import parse_yaml, read_file

# Part of every reading's id: raise it when a change in this package changes the value of a score.
STATISTICS_VERSION = 3

EXTRACTORS = ("inception", "torchvision", EFFICIENTNET, "domain", "torchscript")
SCRIPT_SUFFIXES = (".pt", ".pth", ".ts")

# How encoder and decoder normalise while they are evaluated: with the statistics of each batch, as in training and in
# the published procedure, or with the running statistics. With batch statistics a score depends on the batch size.
# `none` stands where no decoder takes part.
Normalisation = Literal["batch", "running", "none"]
Resize = Literal["clean", "bilinear", "antialiased", "none"]
Autocast = Literal["no", "tf32", "bf16", "fp16"]
Split = Literal["train", "test"]

SHIPPED = files("harness") / "protocols"


def _check_extractor(name: object) -> object:
    if isinstance(name, str) and (name in EXTRACTORS or Path(name).suffix in SCRIPT_SUFFIXES):
        return name
    raise ValueError(unknown("extractor", str(name), EXTRACTORS))


def is_file(path: Path) -> bool:
    """Whether it is one. What cannot be a name, as it is too long, names nothing."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_file(weights: Path | None) -> Path | None:
    """Its absolute path. Raises: ValueError unless the file is there."""
    if weights is not None and not is_file(weights):
        raise ValueError(f"there is no file {weights!s:.200}; name a weights file")
    return weights and weights.absolute()


ExtractorName = Annotated[str, BeforeValidator(_check_extractor)]  # or a TorchScript file


class Protocol(BaseModel):
    """How to score, whatever is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]{0,99}$", description="Lower-case letters, digits and '_'")
    normalisation: Literal["batch", "running"] = Field(
        description="Encoder and decoder use batch or running statistics"
    )
    batch_size: int | None = Field(
        None, **FIELDS["batch_size"].bounds, description="Images generated at once; default 1024 at 32 px, else 256"
    )
    n_fake: int | None = Field(
        None, **FIELDS["n_fake"].bounds, description="Images generated; default: as many as real ones"
    )
    reference: Split = Field("train", description="The split that is the reference: train or test")
    extractor: ExtractorName = Field("inception", description="What makes features of images")
    extractor_weights: Path | None = Field(
        None, strict=False, description="A weights file instead of the staged or shipped one"
    )
    extractor_sha256: str | None = Field(None, description="What the checksum of its weights has to be")
    resize: Resize | None = Field(None, description="To the extractor's size; default: the extractor's own way")
    size: int | None = Field(None, ge=8, le=1024, description="Default: the extractor's own")
    quantisation: Literal["uint8", "none"] = Field("uint8", description="Generated images become what a PNG holds")
    autocast: Autocast = Field("no", description="Precision of the extractor's forward pass")

    @model_validator(mode="before")
    @classmethod
    def _name_extractor_file(cls, fields: Any) -> Any:
        """`extractor: FILE.pt` is the extractor `torchscript` with that file as its weights."""
        named = fields.get("extractor") if isinstance(fields, dict) else None
        if isinstance(named, (str, Path)) and Path(named).suffix in SCRIPT_SUFFIXES:
            return {**fields, "extractor": "torchscript", "extractor_weights": named}
        return fields


@cache
def _load_shipped() -> dict[str, Protocol]:
    """By name. Kept: a sweep asks for them thousands of times."""
    protocols = (Protocol.model_validate(parse_yaml(file.read_text(encoding="utf-8"))) for file in SHIPPED.iterdir())
    return {protocol.name: protocol for protocol in protocols}


def _find_fields(named: object) -> dict[str, Any]:
    """A protocol's fields from a shipped name or a YAML file's path; a mapping stays as it is.

    Raises: ValueError for an unknown name or a file that holds no mapping.
    """
    if isinstance(named, Protocol):
        return named.model_dump()
    if isinstance(named, dict):
        return named
    shipped = _load_shipped()
    if isinstance(named, str) and named in shipped:
        return shipped[named].model_dump()
    if not isinstance(named, str) or Path(named).suffix not in (".yaml", ".yml"):
        raise ValueError(f"{unknown('protocol', str(named), shipped)} (your own: a .yaml file)")
    try:
        fields = read_file(Path(named))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the protocol {named}: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{named} holds no mapping of fields to values, as in `normalisation: batch`")
    fields.setdefault("name", Path(named).stem)
    if fields["name"] in shipped:
        raise ValueError(f"{named} names a shipped protocol; give it a name of its own, as in `name: my_protocol`")
    if unexpected := {*map(str, fields)} - {*Protocol.model_fields}:
        raise ValueError(unknown("protocol field", min(unexpected), Protocol.model_fields))
    return fields


def read_protocol(fields: object) -> Protocol:
    """The protocol of these fields, whether or not its files are here. Raises: ValueError in one line."""
    try:
        return Protocol.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"{field} = {first['input']!r:.80}: " if field and first["type"] != "value_error" else ""
        raise ValueError(f"{what}{first['msg'].removeprefix('Value error, ')}") from error


def find_protocol(named: object, **settings: Any) -> Protocol:
    """The protocol of a shipped name, a YAML file or a mapping of fields, with these settings instead of its own.

    Raises: ValueError saying what is wrong with the name, or with a field.
    """
    fields = _find_fields(named)
    if "extractor" in settings:
        fields = fields | {"extractor_weights": None, "extractor_sha256": None}  # which were another extractor's
    try:
        protocol = read_protocol(fields | settings)
    except ValueError as error:
        raise ValueError(f"{named}: {error}" if isinstance(named, str) else str(error)) from error
    if protocol.extractor == "torchscript" and protocol.extractor_weights is None:
        raise ValueError("the extractor torchscript needs its file: extractor = FILE.pt")
    return protocol.model_copy(update={"extractor_weights": check_file(protocol.extractor_weights)})


def load_protocol(named: str, **settings: Any) -> Protocol:
    """As `find_protocol`. Raises: InputError."""
    try:
        return find_protocol(named, **settings)
    except ValueError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True)
class Reading:
    """A protocol bound to one reference and one extractor's weights: everything that changes the value of a score.

    Scores of different ids are different quantities and never share a table.
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
        """The protocol's name and a hash of every field that is not at its default: `protocol_id` in tables.

        So a field that is new, and does what was done before it, renames no reading that there is.
        """
        defaults = {field.name: field.default for field in fields(self) if field.name != "statistics_version"}
        said = {name: value for name, value in asdict(self).items() if value != defaults.get(name, MISSING)}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:10]}"

    def describe(self) -> dict[str, Any]:
        """Every field, and the id that they hash to."""
        return {"id": self.id, **asdict(self)}
