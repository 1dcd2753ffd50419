"""Sweep files: a grid over any fields of a run's configuration, and what the runs ask of SLURM."""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from harness.config import RunConfig, build_config
from harness.errors import InputError, unknown
from harness.settings import load_config_file
from slurm.options import SlurmOptions, build_options

KEYS = ("name", "grid", "fixed", "exclude", "slurm")
SHIPPED = Path(__file__).parent / "sweeps"


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its runs in the order of its grid, and the content that they follow from."""

    name: str
    configs: list[RunConfig]
    content: dict[str, Any]
    slurm: SlurmOptions


def find_sweep(name: Path) -> Path:
    """The shipped sweep of this name, as `paper` or `paper.yaml`, unless there is such a file here."""
    shipped = SHIPPED / f"{str(name).removesuffix('.yaml')}.yaml"
    if not name.exists() and not shipped.is_file() and name.parent == Path():
        names = {path.stem for path in SHIPPED.glob("*.yaml")}
        raise InputError(f"there is no file {name}, and {unknown('shipped sweep', name.stem, names)}")
    return shipped if shipped.is_file() and not name.is_file() else name


def load_sweep(path: Path, **overrides: Any) -> Sweep:
    """The runs of a sweep file, in the order of its grid; `overrides` win over its fixed fields.

    `grid` maps a field to its values; under any other name it lists joint settings, each a mapping of fields. A point
    is left out where all fields of a mapping in `exclude` have those values.
    Raises: InputError for unknown keys, an empty grid, values that no run accepts, or the same run twice.
    """
    content = load_config_file(path)
    for key in content:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', key, KEYS)}")
    name, grid, fixed, excluded = _read_parts(content, path)
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
            raise InputError(f"{path}, {_name_axes(grid, fixed, point, overrides)}: {error}") from error
        if config.run_id in configs:
            raise InputError(f"{path}: the grid names the run {config.run_id} twice, the second time as {point}")
        configs[config.run_id] = config
    if not configs:
        raise InputError(f"{path}: every point of the grid is excluded")
    options = build_options(content.get("slurm") or {}, str(path))
    for config in configs.values():
        if config.batch_size % options.world_size:
            raise InputError(
                f"{path}: batch_size = {config.batch_size} cannot be shared equally by {options.world_size} processes "
                f"(slurm: nodes = {options.nodes}, {options.processes_per_node} processes each)"
            )
    return Sweep(name, list(configs.values()), content, options)


def _read_parts(content: dict[str, Any], path: Path) -> tuple[str, dict[str, Any], dict[str, Any], list[Any]]:
    """Name, grid, fixed fields and exclusions. Raises: InputError for one that has not the right form."""
    name, grid = str(content.get("name", path.stem)), content.get("grid")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,63}", name):
        raise InputError(
            f"{path}: name = {name!r} must be up to 64 letters, digits, '.', '_' and '-': it names a folder"
        )
    fixed, excluded = content.get("fixed") or {}, content.get("exclude") or []
    if not _is_mapping(grid) or not grid or not all(isinstance(axis, list) and axis for axis in grid.values()):
        raise InputError(f"{path}: grid must map each field to a list of values, as in `grid: {{seed: [0, 1]}}`")
    if not _is_mapping(fixed):
        raise InputError(f"{path}: fixed must map fields to values, as in `fixed: {{epochs: 5}}`")
    if not isinstance(excluded, list) or not all(_is_mapping(rule) for rule in excluded):
        raise InputError(f"{path}: exclude must list mappings, as in `exclude: [{{variant: n_iter, seed: 1}}]`")
    return name, grid, fixed, excluded


def _name_axes(grid: dict[str, list[Any]], fixed: dict[str, Any], point: dict[str, Any], overrides: Any) -> str:
    """Which axis has a value that no run accepts, if one alone is enough to see it; else the point as it is."""
    system = {key: point[key] for key in ("variant", "preset") if key in point}
    for axis, values in grid.items():
        for value in values:
            part = value if isinstance(value, dict) else {axis: value}
            if any(point.get(key) != wanted for key, wanted in part.items()):
                continue
            try:
                build_config(fixed, system, part, overrides)
            except InputError:
                return f"grid.{axis}, value {value!r}"
    return str(point)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _points(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    axes = [[value if isinstance(value, dict) else {field: value} for value in grid[field]] for field in grid]
    return [{key: value for part in parts for key, value in part.items()} for parts in product(*axes)]
