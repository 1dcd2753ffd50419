"""Where the spread of a score comes from: variance components, and the sweep that would measure what is missing."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.measures import MEASURES
from results.compute.statistics import is_sound, split_variance, to_scale
from results.compute.summary import CELL
from results.read.schema import Column

MEASURE = "fid"
SPREAD = [
    Column("measure", "string", "whose spread it is"),
    Column("source", "string", "what varies, everything else alike"),
    Column("deviation", "number", "standard deviation that it causes by itself, on the measure's scale"),
    Column("groups", "integer", "groups of evaluations that differ in nothing else"),
    Column("evaluations", "integer", "in them"),
    Column("design", "string", "what to run where there is too little to tell"),
]


@dataclass(frozen=True)
class Source:
    """Something that varies.

    Args: varies: its column; evaluations that differ in it alone agree in all of `alike`. design: what shows it.
        among: each of its levels needs several runs, whose own spread is taken off.
        repeated: whether evaluations with other sampling seeds count.
    """

    name: str
    varies: str
    alike: list[str]
    design: str
    among: bool = False
    repeated: bool = False


_TRAINING = [name for name in CELL if name not in ("protocol", "protocol_id", "extractor", "sampler")]
_READING = ["protocol_id", "sampler", "epoch"]
_OTHERWISE = [name for name in _TRAINING if name != "mixed_precision"]
SOURCES = [
    Source("training seed", "run_id", [*_TRAINING, *_READING], "grid: {seed: [0, 1, 2, 3]}", repeated=True),
    Source(
        "sampling of codes",
        "sampling_seed",
        [*_TRAINING, *_READING, "run_id"],
        "evaluations of the same runs with other sampling seeds",
        repeated=True,
    ),
    Source(
        "reference's images",
        "protocol_id",
        [*_TRAINING, "protocol", "extractor", "sampler", "epoch", "run_id", "n_fake"],
        "the same runs read under protocols that differ in the reference's images alone",
    ),
    Source(
        "number of processes",
        "num_processes",
        [*_TRAINING, *_READING],
        "four seeds with one process, and four with two",
        among=True,
    ),
    Source(
        "precision",
        "mixed_precision",
        [*_OTHERWISE, *_READING],
        "grid: {mixed_precision: ['no', bf16], seed: [0, 1, 2, 3]}",
        among=True,
    ),
]


def build_spread(runs: pd.DataFrame, measure: str = MEASURE) -> pd.DataFrame:
    """SPREAD: a row for each of SOURCES, from the last evaluations of finished runs.

    Each component is estimated where evaluations differ in the source alone (one-way random effects; what varies inside
    its levels is taken off), and pooled over such groups by their degrees of freedom.
    """
    done = runs[(runs["state"] == "done") & (runs["sampler"] == "prior")]
    last = done[done["epoch"] == done.groupby("run_id")["epoch"].transform("max")]
    raw = last[measure].to_numpy(float, na_value=np.nan)
    values = to_scale(np.where(is_sound(raw), raw, np.nan), MEASURES[measure].scale)
    rows = last.assign(value=values)[np.isfinite(values)]
    rows = rows.assign(sampling_seed=rows["sampling_seed"].fillna(0))
    return pd.DataFrame([{"measure": measure, **_measure(rows, source)} for source in SOURCES])


def _measure(rows: pd.DataFrame, source: Source) -> dict[str, object]:
    kept = rows if source.repeated else rows[rows["sampling_seed"] == 0]
    alike = kept.groupby(source.alike, dropna=False, sort=False)
    sizes, levels = alike.size().to_numpy(), alike[source.varies].nunique().to_numpy()
    counts = (levels >= 2) & ~(source.among & (sizes == levels))
    between = alike["value"].std(ddof=1).to_numpy(float, copy=True)
    places = kept.assign(group=alike.ngroup(), level=kept[source.varies])
    repeated = np.flatnonzero(counts & (sizes > levels))
    for number, group in places[places["group"].isin(repeated)].groupby("group"):
        between[int(str(number))] = split_variance(group["value"].to_numpy(float), group["level"].to_numpy())[0]
    squares = float(((levels - 1) * between**2)[counts].sum())
    freedom = int((levels - 1)[counts].sum())
    found = {"source": source.name, "groups": int(counts.sum()), "evaluations": int(sizes[counts].sum())}
    if not freedom:
        return found | {"deviation": np.nan, "design": source.design}
    return found | {"deviation": float(np.sqrt(squares / freedom)), "design": ""}
