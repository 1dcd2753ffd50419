"""Seeds aggregated: each finished run at its reported epoch, averaged over the seeds of its cell."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd

from harness.errors import InputError
from results.compute.processes import OTHER_PROCESSES, describe_others
from results.compute.statistics import Array, compute_half_width, is_sound, split_variance
from results.read.schema import (
    CONFIGURATION,
    MECHANISM_COLUMNS,
    OVER_SEEDS,
    POSTERIOR_COLUMNS,
    PROTOCOL_COLUMNS,
    SCORE_COLUMNS,
    TRAINING_COLUMNS,
    Column,
    arrow_schema,
    suffixed,
)

# Runs that differ in any of these are different cells: all that changes the trained weights but the seed, the budget,
# the reading, so that numbers of different protocols are never mixed, and whether a search drew them: a trial that was
# chosen for its score is no further seed of its cell.
TRAINED = [*(name for name in TRAINING_COLUMNS if name != "seed"), "training"]
CELL = [*TRAINED, "epochs", "search", "protocol", "protocol_id", "extractor", "sampler"]
# What cells share that are compared with each other: all but what was trained.
SETTING = [name for name in CELL if name not in ("variant", "options")]
SPLIT = ["fid", "inception_score", "kid"]  # scores whose variance is split where evaluations were repeated

EpochRule = Literal["last", "held-out"]
RULES: dict[EpochRule, str] = {
    "last": "the last epoch of each run",
    "held-out": "each run's epoch of the lowest FID on held-out sampling seeds, scored there with the run's own seed",
}

_CELL_COLUMNS = {column.name: column for column in [*CONFIGURATION, *PROTOCOL_COLUMNS]}
SUMMARY = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("n", "integer", "seeds that finished"),
    OTHER_PROCESSES,
    Column("n_real", "integer", "images of the reference"),
    Column("n_fake", "integer", "images generated for a score"),
    Column("epoch_rule", "string", "which epoch is reported: last or held-out"),
    Column("epoch_first", "integer", "the earliest of the seeds' reported epochs"),
    Column("epoch_last", "integer", "the latest of them"),
    Column("sweeps", "string", "sweeps that the runs came from"),
    *suffixed(
        [*SCORE_COLUMNS, *POSTERIOR_COLUMNS, *MECHANISM_COLUMNS],
        {
            "mean": "mean over seeds",
            "std": "standard deviation over seeds (n - 1; empty for one seed)",
            "low": "lower end of the 95 % t interval of the mean (empty for one seed)",
            "high": "upper end of the 95 % t interval of the mean (empty for one seed)",
        },
    ),
    *(
        Column(f"{name}_{source}_std", "number", f"standard deviation of {name} that {source} alone causes, {when}")
        for name in SPLIT
        for source, when in (
            ("training", "where evaluations were repeated with other sampling seeds"),
            ("sampling", "where evaluations were repeated with other sampling seeds"),
        )
    ),
    Column(
        "not_finite", "string", "measures that are NaN, infinite or beyond 1e30 in some seed, and in how many: `fid 1`"
    ),
    Column("collapse", "string", "the seeds' verdicts, counted: `variance 2, none 1`"),
]


def summarise(runs: pd.DataFrame, rule: EpochRule = "last") -> pd.DataFrame:
    """One row per cell, SUMMARY's columns; cells keep the order in which they first appear.

    A measure that was not finite in some seed has an empty mean: the mean of the others would hide it.
    Raises: InputError if the rule is held-out, and a finished run was not evaluated with a second sampling seed.
    """
    reported = reported_rows(runs, rule)
    keys = [reported[name] for name in CELL]
    groups = reported.groupby(CELL, dropna=False, sort=False)
    numbers = reported[OVER_SEEDS].apply(pd.to_numeric)
    flawed = pd.DataFrame({name: _names(reported, name) for name in OVER_SEEDS}, index=reported.index)
    measured = numbers.mask(flawed).groupby(keys, dropna=False, sort=False)
    flaws = flawed.groupby(keys, dropna=False, sort=False).sum()
    mean, std, count = measured.mean().mask(flaws > 0), measured.std().mask(flaws > 0), measured.count()
    half = pd.DataFrame(compute_half_width(std.to_numpy(), count.to_numpy()), index=mean.index, columns=OVER_SEEDS)
    parts = {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
    repeated = _split_variances(runs, reported)
    summary = pd.concat(
        [
            groups.size().rename("n"),
            groups[["n_real", "n_fake"]].first(),
            groups["epoch"].min().rename("epoch_first"),
            groups["epoch"].max().rename("epoch_last"),
            *(part.add_suffix(f"_{suffix}") for suffix, part in parts.items()),
        ],
        axis=1,
    ).reset_index()
    number = groups.ngroup().to_numpy()
    setting = reported.groupby(SETTING, dropna=False, sort=False).ngroup().to_numpy()
    summary = summary.assign(
        epoch_rule=rule,
        other_processes=describe_others(reported, setting, number),
        sweeps=[", ".join(sorted(set(names))) for names in list_by_cell(number, reported["sweep"])],
        not_finite=[", ".join(f"{name} {n}" for name, n in row.items() if n) for row in flaws.to_dict("records")],
        collapse=[
            ", ".join(f"{verdict} {n}" for verdict, n in Counter(verdicts).most_common())
            for verdicts in list_by_cell(number, reported["collapse"])
        ],
    )
    summary = summary.merge(repeated, on=CELL, how="left") if len(repeated) else summary
    return summary.reindex(columns=[column.name for column in SUMMARY]).copy()


def primary_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run, epoch and sampler: that of the run's own sampling seed, without the repeated evaluations."""
    if runs["sampling_seed"].isna().all():
        return runs
    ordered = runs.sort_values("sampling_seed", na_position="first", kind="stable")
    return ordered.drop_duplicates(["run_id", "epochs", "protocol_id", "epoch", "sampler"]).sort_index()


def at_every_budget(done: pd.DataFrame) -> pd.DataFrame:
    """The rows of finished runs, and of each run again at the smaller budgets of its setting.

    A run of 200 epochs is one of 100 as well, if it was evaluated there: tables compare equal budgets.
    """
    place = [name for name in SETTING if name not in ("epochs", "sampler")]
    budgets = done[[*place, "epochs"]].drop_duplicates()
    if not budgets.duplicated(place).any():
        return done
    also = done.merge(budgets, on=place, suffixes=("", "_smaller"))
    also = also[(also["epochs_smaller"] < also["epochs"]) & (also["epoch"] <= also["epochs_smaller"])]
    at_its_end = also["epoch"] == also["epochs_smaller"]
    there = also[at_its_end][["run_id", "protocol_id", "epochs_smaller"]].drop_duplicates()
    also = also.merge(there, on=["run_id", "protocol_id", "epochs_smaller"])
    also = also.assign(epochs=also["epochs_smaller"]).drop(columns="epochs_smaller")
    return pd.concat([done, also], ignore_index=True)


def reported_rows(runs: pd.DataFrame, rule: EpochRule = "last") -> pd.DataFrame:
    """The rows of finished runs at their reported epoch, one per run and sampler."""
    done = at_every_budget(runs[runs["state"] == "done"])
    primary = primary_rows(done)
    if rule == "last":
        last = primary.groupby(["run_id", "epochs", "protocol_id"])["epoch"].transform("max")
        return primary[primary["epoch"] == last]
    others = done.drop(primary.index)
    others = others[others["sampler"] == "prior"]
    keys = ["run_id", "epochs", "protocol_id"]
    held_out = others.groupby([*keys, "epoch"], as_index=False)["fid"].mean().dropna()
    if lacking := sorted(set(done["run_id"]) - set(held_out["run_id"])):
        raise InputError(
            f"--epoch held-out needs evaluations with a second sampling seed, and {len(lacking)} runs have none, "
            f"as {lacking[0]}; --epoch last reports the last epoch"
        )
    best = held_out.loc[held_out.groupby(keys)["fid"].idxmin(), [*keys, "epoch"]]
    marked = primary.reset_index().merge(best, on=[*keys, "epoch"]).set_index("index")
    return marked.sort_index().rename_axis(None)


def _names(rows: pd.DataFrame, measure: str) -> pd.Series:
    """Whether a row's `not_finite` names the measure."""
    noted = rows["not_finite"]
    if noted.isna().all():
        return pd.Series(False, index=rows.index)
    return noted.fillna("").map(lambda names: measure in str(names).split())


def _split_variances(runs: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Per cell with repeated evaluations: training and sampling standard deviations of SPLIT."""
    repeats = runs[runs["sampling_seed"].notna()]
    if repeats.empty:
        return pd.DataFrame()
    keys = ["run_id", "epochs", "protocol_id", "epoch", "sampler"]
    repeated = at_every_budget(runs).merge(reported[keys], on=keys)
    rows = []
    for cell, evaluations in repeated.groupby(CELL, dropna=False, sort=False):
        row = dict(zip(CELL, cell, strict=True))
        for name in SPLIT:
            measured = evaluations[is_sound(evaluations[name].to_numpy(float, na_value=np.nan))]
            training, sampling = split_variance(measured[name].to_numpy(), measured["run_id"].to_numpy())
            row |= {f"{name}_training_std": training, f"{name}_sampling_std": sampling}
        rows.append(row)
    return pd.DataFrame(rows)


def list_by_cell(number: Array, texts: pd.Series) -> list[list[str]]:
    """The texts of each cell's rows, by its number, without missing ones."""
    found: list[list[str]] = [[] for _ in range(number.max() + 1 if len(number) else 0)]
    for cell, text, missing in zip(number, texts, texts.isna(), strict=True):
        if not missing:
            found[cell].append(text)
    return found


def is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def build_empty(columns: Iterable[Column]) -> pd.DataFrame:
    """No rows, in columns of the right types: what has nothing merges like what has."""
    return arrow_schema(columns).empty_table().to_pandas()
