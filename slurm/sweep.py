"""Sweep files: a grid over any fields of a run's configuration, trials drawn beside it, and what SLURM is asked for."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any

from harness.config import RunConfig, build_config
from harness.errors import InputError, unknown
from harness.settings import load_config_file
from slurm.request import SlurmOptions, build_options
from slurm.search import Search, check_distribution, format_draw, read_search

KEYS = ("name", "grid", "search", "fixed", "exclude", "slurm")
SHIPPED = Path(__file__).parent / "sweeps"
FILES = ("protocol", "extractor", "extractor_weights", "feature_weights")  # fields that may name a file
LARGEST_GRID = 1_000_000
NESTED = ("options", "eval")  # fields that are written as a mapping, or flat with a dot
Fields = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its runs in the order of its grid, the content that they follow from, and the folder it is in.

    With a `search` the runs are the grid's once for each trial, the first trial of all of them first.
    """

    name: str
    configs: list[RunConfig]
    content: dict[str, Any]
    slurm: SlurmOptions
    folder: Path
    search: Search | None = None


def find_sweep(name: Path) -> Path:
    """The shipped sweep of this name, as `paper` or `paper.yaml`, unless there is such a file here."""
    shipped = SHIPPED / f"{str(name).removesuffix('.yaml')}.yaml"
    if not name.exists() and not shipped.is_file() and name.parent == Path():
        names = {path.stem for path in SHIPPED.glob("*.yaml")}
        raise InputError(f"there is no file {name}, and {unknown('shipped sweep', name.stem, names)}")
    return shipped if shipped.is_file() and not name.is_file() else name


def load_sweep(path: Path, **overrides: Any) -> Sweep:
    """The runs of a sweep file, in the order of its grid; `overrides` win over its fixed fields.

    `grid` maps a field to its values; under any other name it lists joint settings, each a mapping of fields. `search`
    draws fields for a number of trials, the same for every point of the grid. A point is left out where all fields of
    a mapping in `exclude` have those values. Files and own variants that the sweep names are sought beside it, then in
    the working folder.
    Raises: InputError for unknown keys, an empty grid, a field set in two places, values that no run accepts (drawn
        ones with the trial that drew them), an exclusion of nothing, or the same run twice.
    """
    content = load_config_file(path)
    for key in content:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', key, KEYS)}")
    folder = path.parent.resolve()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    name, axes, fixed, rules = _read_parts(content, path)
    search = _read_search(content["search"], path) if content.get("search") is not None else None
    _require_one_place_each(axes, search, fixed, path)
    trials = _draw_trials(search, path)
    if (size := math.prod(map(len, (trials, *axes.values())))) > LARGEST_GRID:
        raise InputError(f"{path}: the grid has {size} points, more than {LARGEST_GRID}; make several sweeps of it")
    points = [
        {key: value for part in parts for key, value in part.items()} for parts in product(trials, *axes.values())
    ]
    noted = {"sweep": name, **({} if search is None else {"search": search.distributions})}
    exclusions = _Exclusions(rules, points, {**fixed, **overrides}, path)
    configs: dict[str, RunConfig] = {}
    for point in points:
        if exclusions.hold({**fixed, **point, **overrides}):
            continue
        try:
            config = build_config(fixed, point, overrides, noted)
        except InputError as error:
            where = _name_axes(axes, trials, fixed, point, overrides)
            raise InputError(f"{path}, {where}: {error}") from error
        if config.run_id in configs:
            try:
                config = configs[config.run_id].widen(config)
            except ValueError as error:
                raise InputError(
                    f"{path}: the grid names the run {config.run_id} twice, the second time as {point}; {error}"
                ) from error
        configs[config.run_id] = config
    exclusions.require_used()
    if not configs:
        raise InputError(f"{path}: every point of the grid is excluded")
    options = build_options({} if content.get("slurm") is None else content["slurm"], str(path))
    for config in configs.values():
        if config.batch_size % options.world_size:
            raise InputError(
                f"{path}: batch_size = {config.batch_size} cannot be shared equally by {options.world_size} processes "
                f"(slurm: nodes = {options.nodes}, {options.processes_per_node} processes each)"
            )
    return Sweep(name, list(configs.values()), content, options, folder, search)


def _read_parts(content: Fields, path: Path) -> tuple[str, dict[str, list[Fields]], Fields, list[Fields]]:
    """Name, the grid's axes, fixed fields and exclusions, with fields written flat (`options.n`).

    Raises: InputError for one that has not the right form.
    """
    defaults = {"name": path.stem, "grid": None, "fixed": {}, "exclude": []}
    given = {key: value for key, value in content.items() if value is not None}
    name, grid, fixed, rules = ((defaults | given)[key] for key in defaults)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,63}", name):
        raise InputError(
            f"{path}: name = {name!r} must be up to 64 letters, digits, '.', '_' and '-': it names a folder"
            + (f" (one of digits alone is quoted, as in `name: '{name}'`)" if isinstance(name, int) else "")
        )
    if not _is_mapping(grid) or not grid or not all(isinstance(axis, list) and axis for axis in grid.values()):
        raise InputError(f"{path}: grid must map each field to a list of values, as in `grid: {{seed: [0, 1]}}`")
    if not _is_mapping(fixed):
        raise InputError(f"{path}: fixed must map fields to values, as in `fixed: {{epochs: 5}}`")
    if not isinstance(rules, list) or not all(_is_mapping(rule) and rule for rule in rules):
        raise InputError(f"{path}: exclude must list mappings, as in `exclude: [{{variant: n_iter, seed: 1}}]`")
    axes = {
        axis: [
            _flatten(value if isinstance(value, dict) and axis not in NESTED else {axis: value}, path)
            for value in values
        ]
        for axis, values in grid.items()
    }
    return name, axes, _flatten(fixed, path), [_flatten(rule, path) for rule in rules]


def _read_search(block: Any, path: Path) -> Search:
    trials, seed, drawn = read_search(block, path)
    fields = _flatten(drawn, path)
    return Search(trials, seed, {field: check_distribution(field, given, path) for field, given in fields.items()})


def _draw_trials(search: Search | None, path: Path) -> list[Fields]:
    """The drawn fields of each trial; of a sweep without a search, one trial of none."""
    if search is None:
        return [{}]
    try:
        return [_flatten(trial, path) for trial in search.draw()]
    except InputError as error:
        raise InputError(f"{path}: search.{error}") from error


def _flatten(fields: Fields, path: Path) -> Fields:
    """The fields with each of `options` on its own, and files by their paths where they lie beside the sweep file."""
    flat: Fields = {}
    for key, value in fields.items():
        if not isinstance(key, str):
            raise InputError(f"{path}: {key!r} in {fields} names no field")
        nested = key in NESTED and isinstance(value, dict)
        named = {f"{key}.{name}": each for name, each in value.items()} if nested else {key: value}
        for spelt, each in named.items():
            name = f"eval_{spelt.removeprefix('eval.')}" if spelt.startswith("eval.") else spelt
            if name in flat:
                raise InputError(f"{path}: {name} is set twice in {fields}; name it once")
            flat[name] = _find_beside(path, each) if name in FILES else each
    return flat


def _find_beside(path: Path, value: Any) -> Any:
    if isinstance(value, list):
        return [_find_beside(path, each) for each in value]
    is_there = isinstance(value, str) and Path(value).suffix and (path.parent / value).is_file()
    return str((path.parent / value).resolve()) if is_there else value


def _require_one_place_each(axes: Mapping[str, list[Fields]], search: Search | None, fixed: Fields, path: Path) -> None:
    """Raises: InputError for a field that two of axes, `search` and `fixed` set: which of the two would be meant?"""
    places = {f"grid.{axis}": {key for part in parts for key in part} for axis, parts in axes.items()}
    drawn = {*search.distributions} if search is not None else set()
    for (one, ours), (other, theirs) in combinations({**places, "search": drawn, "fixed": {*fixed}}.items(), 2):
        for key in sorted(ours & theirs):
            raise InputError(f"{path}: {key} is set twice, by {one} and by {other}; set it in one of them")


@dataclass
class _Exclusions:
    """The rules of `exclude`, which compare values as the runs would have them: `1e-4` is 0.0001."""

    rules: list[Fields]
    points: list[Fields]
    common: Fields
    path: Path
    used: set[int] = field(default_factory=set)
    values: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {key for fields in (self.common, *self.points) for key in fields} if self.rules else set()
        for key in (key for rule in self.rules for key in rule if key not in known):
            raise InputError(f"{self.path}, exclude: {unknown('field of the sweep', key, known)}")

    def hold(self, fields: Fields) -> bool:
        """Whether a rule leaves the point out that has these fields."""
        holding = [
            number
            for number, rule in enumerate(self.rules)
            if all(self._is_same(fields, key, value) for key, value in rule.items())
        ]
        self.used.update(holding)
        return bool(holding)

    def require_used(self) -> None:
        """Raises: InputError for a rule that left out nothing."""
        for rule in (rule for number, rule in enumerate(self.rules) if number not in self.used):
            everywhere = [{**self.common, **point} for point in self.points]
            lacking = [
                key for key, value in rule.items() if not any(self._is_same(each, key, value) for each in everywhere)
            ]
            why = f"no point has {lacking[0]} = {rule[lacking[0]]!r}" if lacking else "no point has all of these values"
            raise InputError(f"{self.path}, exclude: {rule} matches nothing of the grid: {why}")

    def _is_same(self, fields: Fields, key: str, value: Any) -> bool:
        system = {name: fields[name] for name in ("preset", "variant") if name in fields and name != key}
        ours = self._validate(system, key, fields[key]) if key in fields else self._validate(system, key)
        return ours == self._validate(system, key, value)

    def _validate(self, system: Fields, key: str, *value: Any) -> Any:
        """The field's value, or its default, in a run of this system; as it was written where no run accepts it."""
        place = (repr(system), key, repr(value))
        if place not in self.values:
            self.values[place] = _validate(system, key, *value)
        return self.values[place]


def _validate(system: Fields, key: str, *value: Any) -> Any:
    if key == "preset":
        return value
    try:
        run = build_config(system, {key: value[0]} if value else {}).model_dump(mode="json")
    except InputError:
        return value
    if key in ("extractor", "extractor_weights"):  # settings of the protocols; a file of one's own tells both
        return [(each["extractor"], each["extractor_weights"]) for each in run["protocol"]]
    if key == "n_fake":
        return [each["n_fake"] for each in run["protocol"]]
    if key.startswith("options."):
        return run["options"].get(key.removeprefix("options."), value)
    return run.get(key, value)


def _name_axes(
    axes: Mapping[str, list[Fields]], trials: list[Fields], fixed: Fields, point: Fields, overrides: Fields
) -> str:
    """Which axis has a value that no run accepts, or which draw, if one alone is enough to see it; else the point."""
    system = {key: point[key] for key in ("variant", "preset") if key in point}

    def is_refused(part: Fields) -> bool:
        try:
            build_config(fixed, system, part, overrides)
        except InputError:
            return True
        return False

    for axis, parts in axes.items():
        for part in parts:
            if all(point.get(key) == wanted for key, wanted in part.items()) and is_refused(part):
                return f"grid.{axis}, value {part[axis] if [*part] == [axis] else part!r}"
    for number, trial in enumerate(trials, 1):
        if all(point.get(key) == value for key, value in trial.items()):
            for field in (field for field, value in trial.items() if is_refused({field: value})):
                return f"search.{field}, trial {number} drew {format_draw(trial[field])}"
    return str(point)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
