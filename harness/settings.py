"""Where fields of a configuration come from: presets, files, KEY=VALUE on the command line.

All YAML is read here, and means what it looks like: YAML 1.2's core schema, in which `no` and `1:30` are strings, `017`
is 17 and `1e-4` a number, of which a key given twice, a number that no field can mean, and what only grows or never
ends when it is read are refused.
"""

import json
import math
import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from harness.errors import InputError, unknown

LARGEST_FILE = 1 << 20  # characters
LARGEST_INTEGER = 1 << 53  # beyond it, not every reader of JSON keeps an integer exactly
MOST_VALUES = 100_000  # of one file, what its aliases repeat included
DEEPEST = 32
CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Of YAML, what JSON can hold, and merge keys (`<<`)."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        None: yaml.SafeLoader.yaml_constructors[None],  # of any other tag, which raises
        **{f"{CORE}{kind}": yaml.SafeLoader.yaml_constructors[f"{CORE}{kind}"] for kind in ("str", "seq", "map")},
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
_RESOLVED = (  # YAML 1.2, section 10.3.2
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)
for _kind, _text, _first in _RESOLVED:
    _Loader.add_implicit_resolver(f"{CORE}{_kind}", re.compile(f"(?:{_text})$"), _first)


def _compile(kind: str) -> re.Pattern[str]:
    return re.compile(next(pattern for name, pattern, _ in _RESOLVED if name == kind))


_INTEGER, _NUMBER = _compile("int"), _compile("float")


def read_integer(text: str) -> int:
    """An integer as YAML 1.2 writes it. Raises: ValueError for anything else, and for what only some readers keep."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no integer, as 3")
    if len(text) > 20 or abs(value := int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))) > LARGEST_INTEGER:
        raise ValueError(f"{text[:40]} is beyond 2^53, the largest integer that every reader of a run keeps exactly")
    return value


def read_number(text: str) -> float:
    """A finite number as YAML 1.2 writes it. Raises: ValueError for anything else."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no number, as 0.5 or 1e-4")
    return _require_finite(text)


def _require_finite(text: str) -> float:
    value = float(re.sub(r"\.(?=[inIN])", "", text))  # .inf is Python's inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no number that a field can have: all are finite")
    return value


def _construct_boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return {"true": True, "false": False}[loader.construct_scalar(node).lower()]


def _construct_integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    return read_integer(loader.construct_scalar(node))


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> float:
    return read_number(loader.construct_scalar(node))


_Loader.add_constructor(f"{CORE}null", lambda loader, node: None)
_Loader.add_constructor(f"{CORE}bool", _construct_boolean)
_Loader.add_constructor(f"{CORE}int", _construct_integer)
_Loader.add_constructor(f"{CORE}float", _construct_number)


def parse_yaml(text: str) -> Any:
    """What a YAML text says, as JSON could hold it.

    Raises: ValueError, in one line, for what is no YAML, or is refused (see above).
    """
    if len(text) > LARGEST_FILE:
        raise ValueError(f"it has {len(text)} characters, more than the {LARGEST_FILE} of any configuration")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, {})
        value = loader.construct_document(node)
        require_text(value)
        return value
    except (yaml.YAMLError, KeyError) as error:  # the latter of `!!bool maybe`
        raise ValueError(" ".join(str(error).split())) from error


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises: ValueError for what `parse_yaml` refuses of YAML."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_once([key for key, _ in items])
        return dict(items)

    try:
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=read_integer,
            parse_float=_require_finite,
            parse_constant=_require_finite,
        )
        require_text(value)
        return value
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def require_text(value: Any) -> None:
    """Raises: ValueError for text, anywhere in a value, that no file holds: with a zero byte, or half a character."""
    if isinstance(value, str):
        # U+DC80 to U+DCFF are how Python spells the bytes of a file's name that is no UTF-8: they may stay.
        if "\0" in value or any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in value):
            raise ValueError(f"{value!r:.80} holds a zero byte, or half a character, which no text does")
    elif isinstance(value, dict):
        require_text([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for part in value:
            require_text(part)


def _check_node(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """How many values a node holds, those that aliases repeat counted each time.

    Raises: ValueError for too many, a node within itself, or a key given twice.
    """
    known = sizes.get(id(node), 0)
    if known is None:
        raise ValueError(f"the value at line {node.start_mark.line + 1} holds itself, by an alias")
    if known:
        return known
    sizes[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _require_once([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        parts = [part for pair in node.value for part in pair]
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
    size = 1 + sum(_check_node(part, sizes) for part in parts)
    if size > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES} values, what its aliases repeat included")
    sizes[id(node)] = size
    return size


def _require_once(keys: list[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"the key {key!r} is given twice; which of the two is meant?")
        seen.add(key)


def read_file(path: Path) -> Any:
    """What a YAML or JSON file says. Raises: OSError; ValueError for what is refused, and for a pipe or a device."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open(encoding="utf-8") as file:
        text = file.read(LARGEST_FILE + 1)
    return parse_json(text) if path.suffix == ".json" else parse_yaml(text)


def load_config_file(path: Path) -> dict[str, Any]:
    """The fields in a YAML or JSON file. Raises: InputError if it is missing or holds no mapping."""
    try:
        content = read_file(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} holds no mapping of fields to values, as in `epochs: 5`")
    return content


def load_preset(name: str) -> dict[str, Any]:
    """The fields of a preset shipped in harness/presets. Raises: InputError for an unknown name."""
    presets = _find_presets()
    if not isinstance(name, str) or name not in presets:
        raise InputError(unknown("preset", str(name), presets))
    return _read_preset(presets[name])


@cache
def _find_presets() -> dict[str, Traversable]:
    return {Path(file.name).stem: file for file in (files("harness") / "presets").iterdir()}


@cache
def _read_preset(file: Traversable) -> dict[str, Any]:
    return parse_yaml(file.read_text(encoding="utf-8"))


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings to fields; values are read as YAML. Raises: InputError for one without `=`."""
    fields: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"--set {assignment} is no KEY=VALUE, as in --set epochs=5 or --set options.n=3")
        try:
            merge_fields(fields, {key: parse_yaml(value)})
        except ValueError as error:
            raise InputError(f"--set {assignment}: the value is no YAML ({error})") from error
    return fields


def merge_fields(fields: dict[str, Any], layer: dict[str, Any]) -> None:
    """Add a layer's fields to `fields`, in place; `options` are merged name by name, also where written flat.

    `eval: {when: after}` is eval_when."""
    for key, value in layer.items():
        if key == "eval" and isinstance(value, dict):
            merge_fields(fields, {f"eval.{name}": inner for name, inner in value.items()})
        elif key.startswith("eval."):  # `eval: {when: after, every: 5}`
            fields[f"eval_{key.removeprefix('eval.')}"] = value
        elif key.startswith("options."):
            merge_fields(fields, {"options": {key.removeprefix("options."): value}})
        elif key == "options" and isinstance(value, dict) and isinstance(fields.get("options", {}), dict):
            fields["options"] = {**fields.get("options", {}), **value}
        else:
            fields[key] = value
