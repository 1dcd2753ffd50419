"""The collapse of the posterior over training: what was measured, when it set in, and what FID did then."""

import pandas as pd

from results.compute.summary import primary_rows
from results.read.labels import NEUTRAL
from results.read.schema import POSTERIOR_COLUMNS, RUNS, Column

READING = ["run_id", "protocol_id"]
SAMPLERS = ["gaussian", "gmm", "reconstruction"]
KEYS = ["run_id", "sweep", "variant", "options", "dataset", "image_size", *NEUTRAL, "seed", "state", "epoch"]
KEYS += ["images_seen", "protocol_id", "extractor"]
_RUNS = {column.name: column for column in RUNS}
COLLAPSE = [
    *(_RUNS[name] for name in KEYS),
    *POSTERIOR_COLUMNS,
    Column("fid", "number", "of prior samples"),
    Column("fid_gaussian", "number", "of codes from a Gaussian fitted to the aggregated posterior"),
    Column("fid_gmm", "number", "of codes from a Gaussian mixture fitted to it"),
    Column("fid_reconstruction", "number", "of posterior samples z from q(z, given x) of the training images"),
    Column("collapse_epoch", "integer", "first evaluated epoch from which the verdict stays the last one; empty: none"),
    Column("fid_at_collapse", "number", "FID of prior samples at that epoch"),
    Column("fid_since_collapse", "number", "FID now minus FID at that epoch; empty before it"),
]


def build_collapse_table(runs: pd.DataFrame) -> pd.DataFrame:
    """COLLAPSE: one row per run, reading and evaluated epoch, of runs that have a posterior, of every state."""
    primary = primary_rows(runs)
    prior = primary[(primary["sampler"] == "prior") & primary["sigma_mean"].notna()]
    table = prior[[*KEYS, *(column.name for column in POSTERIOR_COLUMNS), "fid"]]
    for sampler in SAMPLERS:
        others = primary.loc[primary["sampler"] == sampler, [*READING, "epoch", "fid"]]
        table = table.merge(others.rename(columns={"fid": f"fid_{sampler}"}), on=[*READING, "epoch"], how="left")
    table["collapse_epoch"] = _onset(table)
    at_onset = table.loc[table["epoch"] == table["collapse_epoch"], [*READING, "fid"]]
    table = table.merge(at_onset.rename(columns={"fid": "fid_at_collapse"}), on=READING, how="left")
    since = (table["epoch"] >= table["collapse_epoch"]).fillna(False).astype(bool)
    table["fid_since_collapse"] = (table["fid"] - table["fid_at_collapse"]).where(since)
    return table[[column.name for column in COLLAPSE]]


def _onset(table: pd.DataFrame) -> pd.Series:
    """The epoch from which a run's verdict stays what it is at the end; rows are in order of epoch."""
    keys = [table[name] for name in READING]
    last = table.groupby(READING, sort=False)["collapse"].transform("last")
    other = table["epoch"].where(table["collapse"] != last, -1).groupby(keys, sort=False).transform("max")
    settled = table["epoch"].where(table["epoch"] > other)
    onset = settled.groupby(keys, sort=False).transform("min")
    return onset.where(last != "none").astype("Int64")
