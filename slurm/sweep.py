"""Sweep files: a grid over any fields of a run's configuration."""

from itertools import product
from pathlib import Path
from typing import Any

from harness.config import RunConfig, build_config, load_config_file
from harness.errors import InputError, unknown

KEYS = ("name", "grid", "fixed", "exclude")
SHIPPED = Path(__file__).parent / "sweeps"


def load_sweep(path: Path, **overrides: Any) -> list[RunConfig]:
    """The runs of a sweep file, in the order of its grid; `overrides` win over its fixed fields.

    `grid` maps a field to its values; under any other name it lists joint settings, each a mapping of fields. A point
    is left out where all fields of a mapping in `exclude` have those values.
    Raises: InputError for unknown keys, an empty grid, values that no run accepts, or the same run twice.
    """
    content = load_config_file(path)
    for key in content:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', key, KEYS)}")
    name, grid = str(content.get("name", path.stem)), content.get("grid")
    fixed, excluded = content.get("fixed") or {}, content.get("exclude") or []
    if not _is_mapping(grid) or not grid or not all(isinstance(axis, list) and axis for axis in grid.values()):
        raise InputError(f"{path}: grid must map each field to a list of values, as in `grid: {{seed: [0, 1]}}`")
    if not _is_mapping(fixed):
        raise InputError(f"{path}: fixed must map fields to values, as in `fixed: {{epochs: 5}}`")
    if not isinstance(excluded, list) or not all(_is_mapping(rule) for rule in excluded):
        raise InputError(f"{path}: exclude must list mappings, as in `exclude: [{{variant: n_iter, seed: 1}}]`")
    points = _points(grid)
    known = {field for fields in (fixed, overrides, *points) for field in fields}
    for field in (field for rule in excluded for field in rule if field not in known):
        raise InputError(f"{path}, exclude: {unknown('field of the sweep', field, known)}")
    configs: dict[str, RunConfig] = {}
    for point in points:
        fields = {**fixed, **point, **overrides}
        if any(rule == {field: fields.get(field) for field in rule} for rule in excluded):
            continue
        try:
            config = build_config(fixed, point, overrides, {"sweep": name})
        except InputError as error:
            raise InputError(f"{path}, {point}: {error}") from error
        if config.run_id in configs:
            raise InputError(f"{path}: the grid names the run {config.run_id} twice, the second time as {point}")
        configs[config.run_id] = config
    if not configs:
        raise InputError(f"{path}: every point of the grid is excluded")
    return list(configs.values())


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    axes = [[value if isinstance(value, dict) else {field: value} for value in grid[field]] for field in grid]
    return [{key: value for part in parts for key, value in part.items()} for parts in product(*axes)]
