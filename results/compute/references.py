"""Rows to read a score by: real images against real images, and what the decoder makes of posterior samples."""

import pandas as pd

from results.compute.baseline import find_baselines
from results.compute.summary import CELL, SETTING, SUMMARY, build_empty
from results.read.collect import Collection
from results.read.folder import FLOOR
from results.read.schema import SCORE_COLUMNS, SCORES, Column

LABELS = {
    "train_test": "real images: train vs test",
    "split_half": "real images: two halves of train",
    "reconstruction": "reconstructions of the training images (aae)",
}
_CELL_COLUMNS = {column.name: column for column in SUMMARY}
REFERENCES = [
    *(_CELL_COLUMNS[name] for name in SETTING if name != "sampler"),
    Column(
        "reference",
        "string",
        "train_test or split_half: real against real; reconstruction: decoded z from q(z, given x)",
    ),
    Column("label", "string", "the same in words"),
    Column("n", "integer", "seeds; 1 where no training is involved"),
    Column("n_real", "integer", "images of the one side"),
    Column("n_fake", "integer", "images of the other"),
    *(column for column in SCORE_COLUMNS),
    Column("fid_std", "number", "standard deviation of fid over seeds"),
    Column("inception_score_std", "number", "standard deviation of inception_score over seeds"),
]


def build_references(collection: Collection, summary: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """REFERENCES: for each setting in the summary what was recorded of its noise floor and the AAE's reconstructions.

    A floor depends on the data and the protocol alone: it is taken from the first run that recorded it.
    """
    settings = summary[[name for name in SETTING if name != "sampler"]].drop_duplicates()
    floors = collection.floors.drop_duplicates(["protocol_id", "sampler"])
    floors = floors[["protocol_id", "sampler", "n_real", "n_fake", *SCORES]]
    floors = settings.merge(floors, on="protocol_id")
    floors = floors.assign(reference=floors["sampler"].str.removeprefix(FLOOR), n=1)
    baseline = find_baselines(reported)
    decoded = summary.merge(baseline[baseline["sampler"] == "reconstruction"], on=CELL)
    decoded = decoded.drop(columns="inception_score_10_std")  # over seeds there, over splits here
    decoded = decoded.rename(columns={f"{name}_mean": name for name in SCORES}).copy()
    decoded = decoded.assign(reference="reconstruction")
    columns = [column.name for column in REFERENCES]
    parts = [part.reindex(columns=columns) for part in (floors, decoded) if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else build_empty(REFERENCES)
    table["label"] = table["reference"].map(LABELS).fillna(table["reference"])
    place = table["reference"].map({name: number for number, name in enumerate(LABELS)}).fillna(len(LABELS))
    return table.iloc[place.argsort(kind="stable")].reset_index(drop=True)
