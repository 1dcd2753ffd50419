"""The `search:` block of a sweep file: fields whose values are drawn, in the same trials for every cell of the grid."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from harness.errors import InputError, unknown
from harness.fields import ALWAYS_NAMED, FIELDS

DIGITS = 3  # of a drawn number: enough for any rate, and readable where it names a cell
MOST_TRIALS = 10_000
MOST_REPEATS = 1000  # of draws that were drawn before, in a row: by then there is nothing else to draw
EXAMPLE = "learning_rate: {log_uniform: [1e-4, 1e-2]}"
Fields = dict[str, Any]
Distribution = dict[str, list[Any]]


@dataclass(frozen=True)
class Search:
    """`distributions`: of each field that is drawn its distribution, as the sweep file has it.

    Draw i of a field follows from the seed, the field's name and i alone: more trials, or another field beside it,
    leave the earlier draws of a field as they are.
    """

    trials: int
    seed: int
    distributions: dict[str, Distribution]

    def draw(self) -> list[Fields]:
        """The trials, each with its value of every field; no two are the same.

        Raises: InputError if there are not so many different ones.
        """
        found: dict[str, Fields] = {}
        repeats = 0
        for number in itertools.count():
            values = {field: self._draw_one(field, number) for field in self.distributions}
            key = json.dumps(values, sort_keys=True)
            repeats = repeats + 1 if key in found else 0
            found.setdefault(key, values)
            if len(found) == self.trials:
                break
            if repeats == MOST_REPEATS:
                raise InputError(f"trials = {self.trials}, but there are only {len(found)} different draws")
        return list(found.values())

    def _draw_one(self, field: str, number: int) -> Any:
        # Python promises that a text seeds random() alike on every machine and in every version.
        share = random.Random(f"{self.seed} {field} {number}").random()
        ((kind, values),) = self.distributions[field].items()
        return _DRAWS[kind](share, *values) if kind != "choice" else values[math.floor(share * len(values))]

    def describe(self) -> Iterator[str]:
        """What `aaebench sweep plan` shows: the distributions, then a line for each trial."""
        yield f"search: {self.trials} trials a cell, the same for all, drawn with seed {self.seed}"
        for field, distribution in self.distributions.items():
            ((kind, values),) = distribution.items()
            yield f"  {field}: {kind} {json.dumps(values)}"
        rows = [["trial", *self.distributions]]
        rows += [[str(number), *map(format_draw, trial.values())] for number, trial in enumerate(self.draw(), 1)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def format_draw(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _round(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _draw_uniform(share: float, low: float, high: float) -> float:
    return _round(low + share * (high - low), low, high)


def _draw_log_uniform(share: float, low: float, high: float) -> float:
    return _round(low * (high / low) ** share, low, high)


def _draw_integer(share: float, low: int, high: int) -> int:
    return low + math.floor(share * (high - low + 1))


_DRAWS = {"log_uniform": _draw_log_uniform, "uniform": _draw_uniform, "integer": _draw_integer}
DISTRIBUTIONS = (*_DRAWS, "choice")


def read_search(block: Any, path: Path) -> tuple[int, int, Fields]:
    """Trials, seed, and what is given of each field, from a sweep file's `search`.

    Raises: InputError unless it maps fields to something, and has a number of trials.
    """
    if not isinstance(block, dict) or not all(isinstance(key, str) for key in block):
        raise InputError(f"{path}: search must map fields to distributions, as in `search: {{trials: 8, {EXAMPLE}}}`")
    trials, seed = block.get("trials"), block.get("seed", 0)
    if not _is_integer(trials) or not 1 <= trials <= MOST_TRIALS:
        raise InputError(f"{path}: search.trials = {trials} is no number of trials, 1 to {MOST_TRIALS}")
    if not _is_integer(seed):
        raise InputError(
            f"{path}: search.seed = {seed} is the seed of the draws, a number; the runs' seeds are a grid's"
        )
    drawn = {key: value for key, value in block.items() if key not in ("trials", "seed")}
    if not drawn:
        raise InputError(f"{path}: search names no field to draw, as in `search: {{trials: {trials}, {EXAMPLE}}}`")
    return trials, seed, drawn


def check_distribution(field: str, given: Any, path: Path) -> Distribution:
    """What is given of a field, if it is a distribution of something that makes trials differ.

    Raises: InputError for an unknown distribution, reversed bounds, nothing to choose from, or a field that is no
        setting of the training.
    """
    where = f"{path}: search.{field}"
    root = field.partition(".")[0]
    if root in ("preset", *ALWAYS_NAMED):
        raise InputError(
            f"{where}: a trial is a setting of the training; list what is trained, and on what, under grid"
        )
    if root in FIELDS and FIELDS[root].changes != "training":
        raise InputError(f"{where} changes nothing of the training: all trials would be one run; set it under fixed")
    if not isinstance(given, dict) or len(given) != 1:
        raise InputError(f"{where} must name one distribution with its values, as in `{EXAMPLE}`")
    ((kind, values),) = given.items()
    if kind not in DISTRIBUTIONS:
        raise InputError(f"{where}: {unknown('distribution', str(kind), DISTRIBUTIONS)}")
    if kind == "choice":
        if not isinstance(values, list) or not values:
            raise InputError(f"{where}: choice takes a list of values, as in `{{choice: [linear, exp]}}`")
        return {kind: values}
    is_number = _is_integer if kind == "integer" else _is_number
    if not isinstance(values, list) or len(values) != 2 or not all(map(is_number, values)):
        numbers = "integers" if kind == "integer" else "numbers"
        raise InputError(f"{where}: {kind} takes two {numbers}, the smaller first, not {values}")
    low, high = values
    if not low < high:
        raise InputError(f"{where}: the bounds {values} are reversed or equal; the smaller comes first")
    if kind == "log_uniform" and low <= 0:
        raise InputError(f"{where}: log_uniform draws from above 0, and its lower bound is {low}")
    return {kind: values}


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)
