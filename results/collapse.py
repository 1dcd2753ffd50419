"""The collapse of the posterior over training: what every evaluation measured, and the epoch at which it set in."""

import pandas as pd

from harness.record import Record
from results.collect import POSTERIOR, Collection

KEYS = ["run_id", "sweep", "variant", "options", "dataset", "image_size", "seed", "epoch", "images_seen", "protocol_id"]
DIMENSIONS = ["sigma_mean_smallest_dim", "sigma_mean_largest_dim"]


def build_collapse_table(collection: Collection) -> pd.DataFrame:
    """One row per run and evaluation, of runs that have a posterior.

    Besides the columns of runs.csv: mean |sigma| in the dimensions where it is smallest and largest, and
    `collapse_epoch`, the first evaluated epoch from which the verdict stays the last one; empty without collapse.
    """
    prior_samples = collection.runs[collection.runs["sampler"] == "prior"]
    table = prior_samples[[*KEYS, *POSTERIOR, "fid"]].dropna(subset=["sigma_mean"]).reset_index(drop=True)
    dimensions = {
        (run_id, record["epoch"]): _extremes(record)
        for run_id, records in collection.records.items()
        for record in records
        if "posterior/sigma_mean_per_dim" in record
    }
    pairs = [dimensions.get(key, (None, None)) for key in zip(table["run_id"], table["epoch"], strict=True)]
    table[DIMENSIONS] = pd.DataFrame(pairs, columns=DIMENSIONS, index=table.index)
    onset = {run_id: _onset(rows) for run_id, rows in table.groupby("run_id")}
    table["collapse_epoch"] = table["run_id"].map(onset).astype("Int64")
    return table


def _extremes(record: Record) -> tuple[float, float]:
    sigmas = record["posterior/sigma_mean_per_dim"]
    return min(sigmas), max(sigmas)


def _onset(rows: pd.DataFrame) -> int | None:
    """The epoch from which a run's verdict stays what it is at the end."""
    rows = rows.sort_values("epoch")
    verdict = rows["collapse"].iloc[-1]
    if verdict == "none":
        return None
    others = rows.loc[rows["collapse"] != verdict, "epoch"]
    return int(rows.loc[rows["epoch"] > others.max(), "epoch"].min()) if len(others) else int(rows["epoch"].min())
