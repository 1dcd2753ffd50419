"""Numbers of different protocol ids are different quantities: which ids a collection holds, and choosing one."""

import functools
import operator
from dataclasses import replace

import pandas as pd
import pyarrow.compute as pc

from harness.errors import InputError, unknown
from results.read.collect import Collection

PLACE = ["dataset", "image_size"]
RECORDED = ["protocol", "extractor", "n_real", "n_fake"]  # what every row says of its protocol


def choose_protocol(collection: Collection, wanted: str | None, required: bool = True) -> Collection:
    """The evaluations under one protocol per data set and size.

    Args: wanted: a protocol's name, an extractor's, or an id; None where there is nothing to choose. required: whether
            several may not stay side by side.
    Raises: InputError if there is no such protocol, or several are left, saying in which fields they differ.
    """
    if wanted is not None:
        valid = {
            name for column in ("protocol", "extractor", "protocol_id") for name in collection.runs[column].dropna()
        }
        if wanted not in valid:
            raise InputError(unknown("protocol", wanted, valid))
        columns = ("protocol", "extractor", "protocol_id")
        mask = functools.reduce(operator.or_, (pc.field(column) == wanted for column in columns))
        floors, provenance, problems = collection.floors, collection.provenance, collection.problems
        table = collection.table.filter(mask)
        kept = set(table.column("protocol_id").to_pylist())
        others = provenance.loc[provenance["protocol_id"].notna() & ~provenance["protocol_id"].isin(kept), "run_id"]
        collection = replace(
            collection,
            table=table,
            floors=floors[(floors[list(columns)] == wanted).any(axis=1)],
            provenance=provenance[~provenance["run_id"].isin(others)],
            problems=problems[~problems["run_id"].isin(others)],
        )
    for (dataset, size), ids in collection.runs.groupby(PLACE)["protocol_id"]:
        if required and ids.nunique() > 1:
            names = list(ids.dropna().unique())
            raise InputError(
                f"{dataset} at {size} px was scored under {len(names)} protocols, whose numbers are different "
                f"quantities: {describe_difference(collection, names)}; choose one with --protocol {names[0]} (or the "
                "name of a protocol or an extractor)"
            )
    return collection


def describe_difference(collection: Collection, ids: list[str]) -> str:
    """In which fields the protocols differ, and how: `normalisation (batch, running)`."""
    definitions = [collection.protocols.get(name) or _recorded(collection.runs, name) for name in ids]
    fields = {field for definition in definitions for field in definition} - {"id"}
    differing = []
    for field in sorted(fields):
        values = [str(definition.get(field, "not recorded")) for definition in definitions]
        if len(set(values)) > 1:
            differing.append(f"{field} ({', '.join(value[:24] for value in values)})")
    reason = ", ".join(differing) or "something that was not recorded"
    return f"{', '.join(ids)} differ in {reason}"


def _recorded(runs: pd.DataFrame, protocol_id: str) -> dict[str, object]:
    rows = runs[runs["protocol_id"] == protocol_id]
    return {name: rows[name].iloc[0] for name in RECORDED} if len(rows) else {}
