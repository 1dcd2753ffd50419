"""The trials of a search: runs whose settings a sweep drew. What was drawn is no part of what is compared."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.fields import FIELDS
from results.compute.summary import SETTING, primary_rows
from results.read.labels import to_plain
from results.read.schema import NO_SEARCH

METHOD = ["variant", "options"]
READING = ["protocol", "protocol_id", "extractor"]
PLACE = [name for name in SETTING if name != "sampler"]  # what the methods of one search share, drawn fields apart


def add_unscored(runs: pd.DataFrame, unscored: pd.DataFrame) -> pd.DataFrame:
    """The rows of all runs; a run that has no evaluation is one in each reading of its data set and size.

    Args: runs, unscored: as a Collection has them.
    """
    place = ["dataset", "image_size"]  # one reading of two data sets has two ids
    readings = runs[[*place, *READING]].drop_duplicates()
    placed = unscored.drop(columns=READING).merge(readings, on=place).assign(sampler="prior")
    return pd.concat([runs, placed], ignore_index=True) if len(placed) else runs


def find_trials(runs: pd.DataFrame, reported: pd.DataFrame, score: str) -> pd.DataFrame:
    """A row for each run of a search and reading, its drawn fields taken out (see take_out_draws).

    `own` is its score on the run's own sampling seed, `held_out` the mean on others; both are NaN unless it is done.
    A trial that nobody has evaluated is one as well, in each reading that others of its search have.

    Args: runs, reported: rows of all runs (see add_unscored), and of finished ones at their reported epoch.
    """
    done = reported[(reported["search"] != NO_SEARCH) & (reported["sampler"] == "prior")]
    every = runs[(runs["search"] != NO_SEARCH) & (runs["sampler"] == "prior")]
    keys = ["run_id", "protocol_id", "epoch"]
    repeated = every.drop(primary_rows(every).index)
    held_out = repeated.groupby(keys)[score].mean().rename("held_out").reset_index()
    finished = done.assign(own=done[score].astype(float)).merge(held_out, on=keys, how="left")
    begun = every[every["state"] != "done"].drop_duplicates(["run_id", "protocol_id"], keep="last")
    both = pd.concat([finished, begun.assign(own=np.nan, held_out=np.nan)], ignore_index=True)
    trials = pd.concat([take_out_draws(rows, str(text)) for text, rows in both.groupby("search", sort=False)] or [both])
    # Of those that nobody has evaluated, some stand in readings that their search was never given.
    evaluations = trials["epoch"].groupby([trials[name] for name in PLACE], dropna=False).transform("count")
    return trials[evaluations > 0]


def take_out_draws(rows: pd.DataFrame, search: str) -> pd.DataFrame:
    """The rows as runs of this search: `draw` has the values of its fields as JSON, and those fields are empty or gone.

    So runs of one method share `options` and setting, and differ in `draw` and seed.
    """
    fields = list(json.loads(search))
    columns = [name for name in fields if name in rows.columns]
    options = {name.removeprefix("options."): name for name in fields if name.startswith("options.")}
    training = {name: name for name in fields if name not in (*columns, *options.values())}
    draws: list[dict[str, Any]] = [
        dict(zip(columns, map(to_plain, values), strict=True)) for values in rows[columns].itertuples(index=False)
    ]
    left = {}
    for column, names in (("options", options), ("training", training)):
        split = {str(text): _split(str(text), names) for text in rows[column].unique()}
        left[column] = [split[text][0] for text in rows[column]]
        draws = [draw | split[text][1] for draw, text in zip(draws, rows[column], strict=True)]
    empty = {name: np.nan if pd.api.types.is_numeric_dtype(rows[name]) else None for name in columns}
    return rows.assign(**left, **empty, search=search, draw=[json.dumps(draw, sort_keys=True) for draw in draws])


def _split(text: str, names: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """A JSON object without these keys, and their values by their whole names; `training` leaves defaults out."""
    content = json.loads(text)
    rest = {key: value for key, value in content.items() if key not in names}
    usual = {key: FIELDS[key].default_among({}) for key in names if key in FIELDS}
    drawn = {whole: content.get(key, usual.get(key)) for key, whole in names.items()}
    return json.dumps(rest, sort_keys=True), drawn


def gather_draws(trials: pd.DataFrame, chosen_on: str) -> pd.DataFrame:
    """Of the trials of one search: a row for each method and draw, with means over the trial's seeds.

    `chosen_by` and `reported`: the scores; of a trial that `failed` (in any seed, or scored what is not finite) the
    worst that finished of all methods: by its own worst, a method that fails wherever it is bad would look robust.
    `settled`: no seed is missing, which others of its method have. `seeds`: of the method.

    Args: chosen_on: held_out or own, the score by which the best is chosen.
    """
    keys = [trials[name] for name in (*METHOD, "draw")]
    over = trials["state"].isin(["done", "failed"])
    failed = over & ~np.isfinite(trials["own"].astype(float))
    table = pd.DataFrame(
        {
            "chosen_by": trials[chosen_on].groupby(keys, sort=False, dropna=False).mean(),
            "reported": trials["own"].groupby(keys, sort=False, dropna=False).mean(),
            "failed": failed.groupby(keys, sort=False, dropna=False).any(),
            "over": over.groupby(keys, sort=False, dropna=False).all(),
            "count": trials["seed"].groupby(keys, sort=False, dropna=False).nunique(),
        }
    ).reset_index()
    seeds = trials.groupby(METHOD, dropna=False)["seed"].nunique().rename("seeds")
    table = table.merge(seeds.reset_index(), on=METHOD)
    table["settled"] = table["over"] & (table["count"] == table["seeds"])
    for name in ("chosen_by", "reported"):
        worst = table.loc[table["settled"] & ~table["failed"], name].max()
        table[name] = table[name].mask(table["failed"], worst)
    return table.drop(columns=["over", "count"])


def list_values(draws: Sequence[str], field: str) -> list[Any]:
    """The values of a drawn field."""
    return [json.loads(draw)[field] for draw in draws]
