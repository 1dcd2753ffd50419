"""Looking at runs, and adding seeds where nothing is decided, again and again: each look spends its share of the 5 %.

`aaebench sweep extend --until-decided` records each look beside the runs, in looks.jsonl: what was compared, with how
many seeds, at which level, and what was decided. A comparison is tested at the level that its growth since the last
look earns (Lan & DeMets 1983, with Pocock's spending function), by itself: the levels of all looks add up to 5 % at
most, so that the chance of any false finding over all looks stays below 5 %, however they depend on each other. What
was decided stays decided.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import InputError
from harness.files import flush_to_disk, share
from results.compute.baseline import judge
from results.compute.statistics import ALPHA
from results.compute.summary import CELL

LOOKS = "looks.jsonl"
DECIDED = ("better", "worse", "different", "equivalent")
MEASURE = "fid"  # by which cells are extended


@dataclass(frozen=True)
class Look:
    """What one look saw. `comparisons`: by its cell (see name_comparison) n, level and verdict of its FID."""

    at: str
    at_most: int
    comparisons: dict[str, dict[str, Any]]


def load_looks(runs: Path) -> list[Look]:
    """The looks at a folder of runs, oldest first. Raises: InputError if their file cannot be read.

    The last line may have been cut by a kill; that look was not used.
    """
    file = runs / LOOKS
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    looks = []
    for line in lines:
        if not line.endswith("\n"):
            break
        try:
            looks.append(Look(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file} is damaged: {error}; restore it: earlier looks stand there") from error
    return looks


def record_look(runs: Path, look: Look) -> None:
    """Append a look. Raises: InputError if it cannot be written."""
    file = runs / LOOKS
    line = json.dumps(asdict(look)) + "\n"
    try:
        whole = file.read_bytes() if file.exists() else b""
        cut = b"" if whole.endswith(b"\n") or not whole else b"\n"
        if cut:  # what a kill cut is no look
            file.write_bytes(whole[: whole.rfind(b"\n") + 1])
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        share(file)
        flush_to_disk(file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error}") from error


def spend(n: float, at_most: int) -> float:
    """The level that all looks up to n seeds may spend together (Pocock's spending function of n / at_most)."""
    return ALPHA * math.log1p((math.e - 1) * min(n / at_most, 1.0))


def name_comparison(row: pd.Series) -> str:
    """A comparison's name in looks.jsonl: the values of its cell."""
    return json.dumps([None if pd.isna(row[name]) else str(row[name]) for name in CELL])


def apply_looks(comparisons: pd.DataFrame, looks: Sequence[Look]) -> pd.DataFrame:
    """COMPARISONS with the levels that looks leave, and what earlier looks decided.

    The level holds for all measures of a cell that was looked at, since its seeds depend on the looks; what was decided
    of FID stays decided.
    """
    if not looks or comparisons.empty:
        return comparisons
    names = [name_comparison(row) for _, row in comparisons[CELL].iterrows()]
    levels, verdicts = list(comparisons["level"]), list(comparisons["verdict"])
    for place, (name, (_, row)) in enumerate(zip(names, comparisons.iterrows(), strict=True)):
        n = min(row["n"], row["n_baseline"])
        past = [(look, look.comparisons[name]) for look in looks if name in look.comparisons]
        decided = next((seen for _, seen in past if seen["verdict"] in DECIDED), None)
        if decided is not None:
            levels[place] = decided["level"]
        elif past:
            levels[place] = compute_level(n, [(seen["n"], seen["level"]) for _, seen in past], past[-1][0].at_most)
        else:
            continue
        if decided is not None and row["measure"] == MEASURE:
            verdicts[place] = decided["verdict"]
        else:
            verdicts[place] = judge(
                row["measure"], row["difference"], row["p_holm"], row["p_equivalent"], n, levels[place]
            )
    table = comparisons.assign(level=levels, verdict=verdicts)
    return table.assign(more_seeds=table["more_seeds"].where(~table["verdict"].isin(DECIDED), 0.0))


def compute_level(n: float, past: Sequence[tuple[float, float]], at_most: int) -> float:
    """At n seeds, after looks at (n, level): a look's own level at its n, else what has been earned since the last."""
    same = [level for seen, level in past if seen == n]
    last = max((seen for seen, _ in past if seen < n), default=0)
    return same[0] if same else spend(n, at_most) - (spend(last, at_most) if last else 0.0)
