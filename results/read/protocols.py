"""Numbers of different protocol ids are different quantities: which ids a collection holds, and choosing one."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import InputError, unknown
from harness.protocol import EXTRACTORS
from results.read.collect import Collection

PLACE = ["dataset", "image_size"]
RECORDED = ["protocol", "extractor", "n_real", "n_fake"]  # what every row says of its protocol
PREFERRED = ("paper", "clean", "published")  # what is shown where nobody says which; then others, by name


def choose_protocol(collection: Collection, wanted: str | None, required: bool = True) -> Collection:
    """The evaluations under one protocol per data set and size; the others' ids are in `unshown`.

    Args: wanted: a protocol's name, an extractor's, or an id; None for the first of PREFERRED that a data set was
            scored under (and of its extractors the first of harness.protocol's list). required: whether several may
            not stay side by side.
    Raises: InputError if there is no such protocol, or what is wanted leaves several, saying in which fields they
        differ.
    """
    before = sorted(collection.runs["protocol_id"].dropna().unique())
    if wanted is not None:
        columns = ("protocol", "extractor", "protocol_id")
        valid = {name for column in columns for name in collection.runs[column].dropna()}
        if wanted not in valid:
            raise InputError(unknown("protocol", wanted, valid))
        chosen = collection.runs[(collection.runs[list(columns)] == wanted).any(axis=1)]["protocol_id"].unique()
        collection = _keep(collection, chosen)
        for (dataset, size), ids in collection.runs.groupby(PLACE)["protocol_id"]:
            if required and ids.nunique() > 1:
                names = list(ids.dropna().unique())
                raise InputError(
                    f"{dataset} at {size} px was scored under {len(names)} protocols of that name, whose numbers are "
                    f"different quantities: {describe_difference(collection, names)}; choose one with --protocol "
                    f"{names[0]}"
                )
    elif required:
        collection = _keep(collection, [_prefer(rows) for _, rows in collection.runs.groupby(PLACE)])
    shown = set(collection.runs["protocol_id"].dropna())
    return replace(collection, unshown=tuple(name for name in before if name not in shown))


def describe_choice(collection: Collection) -> str:
    """Which readings are shown, and which others there are; nothing where there is no choice."""
    if not collection.unshown:
        return ""
    shown = ", ".join(sorted(collection.runs["protocol_id"].dropna().unique()))
    others = ", ".join(collection.unshown)
    return f"shown: {shown}; also there: {others} (--protocol ID shows one of them)"


def _prefer(rows: pd.DataFrame) -> str:
    """The reading to show of one data set's."""
    counts = rows.groupby(["protocol", "extractor", "protocol_id"]).size()

    def order(reading: Any) -> tuple[Any, ...]:
        protocol, extractor, protocol_id = reading
        places = [
            names.index(name) if name in names else len(names)
            for name, names in ((protocol, PREFERRED), (extractor, EXTRACTORS))
        ]
        return *places, protocol, -int(counts[reading]), protocol_id

    return min(counts.index, key=order)[2]


def _keep(collection: Collection, ids: Iterable[str]) -> Collection:
    """The readings with these ids, and the runs that have one of them or none at all."""
    kept = set(ids)
    provenance, problems, floors = collection.provenance, collection.problems, collection.floors
    own = provenance["protocol_ids"].map(lambda names: set(str(names).split()) if isinstance(names, str) else set())
    others = provenance.loc[[bool(names) and not names & kept for names in own], "run_id"]
    return replace(
        collection,
        table=collection.table.filter(pc.field("protocol_id").isin(pa.array(sorted(kept), pa.large_string()))),
        floors=floors[floors["protocol_id"].isin(kept)],
        provenance=provenance[~provenance["run_id"].isin(others)],
        problems=problems[~problems["run_id"].isin(others)],
    )


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
