"""Where fields of a configuration come from: presets, files, KEY=VALUE on the command line."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, unknown


def load_config_file(path: Path) -> dict[str, Any]:
    """The fields in a YAML or JSON file. Raises: InputError if it is missing or holds no mapping."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the configuration {path}: {' '.join(str(error).split())}") from error
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
    return yaml.safe_load(file.read_text())


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`KEY=VALUE` strings to fields; values are read as YAML. Raises: InputError for one without `=`."""
    fields: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"--set {assignment} is no KEY=VALUE, as in --set epochs=5 or --set options.n=3")
        try:
            merge_fields(fields, {key: yaml.safe_load(value)})
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(f"--set {assignment}: the value is no YAML ({' '.join(str(error).split())})") from error
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
