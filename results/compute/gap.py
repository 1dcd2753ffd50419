"""The gap between the protocols `paper` and `clean`: the same cells, scored with batch and with running statistics."""

import pandas as pd

from results.compute.processes import OTHER_PROCESSES
from results.compute.summary import CELL, SUMMARY
from results.read.schema import Column

SAME = [name for name in CELL if name not in ("protocol", "protocol_id")]
_CELL_COLUMNS = {column.name: column for column in SUMMARY}
GAP = [
    *(_CELL_COLUMNS[name] for name in SAME),
    Column("protocol_id_paper", "string", "id of the one"),
    Column("protocol_id_clean", "string", "id of the other"),
    Column("n_paper", "integer", "seeds under paper"),
    Column("n_clean", "integer", "seeds under clean"),
    OTHER_PROCESSES,
    Column("fid_paper", "number", "mean FID under paper"),
    Column("fid_clean", "number", "mean FID under clean"),
    Column("fid_gap", "number", "clean minus paper: what the statistics of a batch are worth"),
]


def build_gap(summary: pd.DataFrame) -> pd.DataFrame:
    """GAP: a row for each cell that was scored under both protocols; empty where none was."""
    sides = {}
    for name in ("paper", "clean"):
        side = summary.loc[summary["protocol"] == name, [*SAME, "protocol_id", "n", "fid_mean", "other_processes"]]
        renamed = {"protocol_id": f"protocol_id_{name}", "n": f"n_{name}", "fid_mean": f"fid_{name}"}
        sides[name] = side.rename(columns=renamed)
    both = sides["paper"].merge(sides["clean"].drop(columns="other_processes"), on=SAME)
    both["fid_gap"] = both["fid_clean"] - both["fid_paper"]
    return both[[column.name for column in GAP]]
