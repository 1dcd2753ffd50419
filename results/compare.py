"""Two collections side by side (two commits, two clusters, two precisions): what changed beyond noise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from harness.errors import CommandError, InputError
from harness.measures import MEASURES
from results.commands import load_collection
from results.compute.baseline import COMPARED, judge
from results.compute.cells import build_cells, lay_out
from results.compute.statistics import (
    ALPHA,
    MARGIN,
    adjust_holm,
    compute_margin,
    compute_p_equivalent,
    compute_reach,
    from_scale,
    require_margin,
    to_scale,
)
from results.compute.summary import CELL, SUMMARY, reported_rows
from results.read.labels import NEUTRAL, label_cells, name_place
from results.read.protocols import choose_protocol
from results.read.schema import Column
from results.show.write import MANIFEST, load_runs, write_table

_CELL_COLUMNS = {column.name: column for column in SUMMARY}
COMPARE = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("measure", "string", "what is compared"),
    Column("n", "integer", "seeds that finished in both"),
    Column("mean_a", "number", "over these seeds, in A"),
    Column("mean_b", "number", "over these seeds, in B"),
    Column("difference", "number", "B minus A"),
    Column("low", "number", "lower end of its 95 % interval; empty for one seed"),
    Column("high", "number", "upper end of its 95 % interval; empty for one seed"),
    Column("relative", "number", "difference over the absolute mean of A"),
    Column("paired", "string", "yes: seed by seed, since runs of one seed go together in A and B"),
    Column("p", "number", "two-sided moderated t test on the measure's scale; empty for one seed"),
    Column("p_holm", "number", "adjusted over all comparisons"),
    Column("p_equivalent", "number", "that B is within the margin of A, adjusted likewise"),
    Column("verdict", "string", "identical, better, worse, different, equivalent, undecided, or n = 1"),
    Column("regression", "string", "yes: worse by more than the threshold, and beyond noise where n > 1"),
]


class RegressionError(CommandError):
    """The second collection is worse than the first by more than the threshold."""


@dataclass(frozen=True)
class Comparison:
    """`table`: COMPARE; `settings`: fields in which A and B differ as wholes; the cells that only one of them has."""

    table: pd.DataFrame
    settings: dict[str, tuple[str, str]]
    only_a: list[str]
    only_b: list[str]


def compare_command(
    a: Path,
    b: Path,
    /,
    *,
    threshold: float = 0.05,
    margin: float = MARGIN,
    protocol: str | None = None,
    out: Path | None = None,
) -> None:
    """Say what changed from A to B beyond noise; exit status 1 if a score got worse by more than THRESHOLD.

    Runs of the same seed are compared as pairs where the seeds' scores go together. A regression is a score that is
    worse by more than the threshold and, with two seeds or more, beyond noise (moderated t test, Holm over all
    comparisons, 0.05). With a single seed the threshold alone decides, and says so.

    Parameters
    ----------
    a
        A folder of run folders, or one that `aaebench collect` or `aaebench report` wrote: what was before.
    b
        Likewise: what is now.
    threshold
        A fraction of A's mean: 0.05 is 5 %.
    margin
        A fraction of A's mean within which B counts as equivalent.
    protocol
        The protocol (paper, clean), extractor or protocol id to compare, where there are several.
    out
        A folder for compare.csv and compare.parquet. [default: none]
    """
    if not threshold >= 0:
        raise InputError(f"--threshold {threshold} is no fraction of a score; 0 or more, as in --threshold 0.05")
    require_margin(margin)
    comparison = compare(load_reported(a, protocol), load_reported(b, protocol), threshold, margin)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_table(comparison.table, COMPARE, out / "compare.csv")
        except OSError as error:
            raise InputError(f"cannot write to {out}: {error}; choose another folder with --out") from error
    print_comparison(comparison, threshold)
    worse = comparison.table[comparison.table["regression"] == "yes"]
    if len(worse):
        places = _name_places(comparison, worse)
        names = [f"{c} on {p}: {m}" for c, p, m in zip(label_cells(worse), places, worse["measure"], strict=True)]
        raise RegressionError(f"{len(worse)} regressions beyond {threshold:.0%}: {', '.join(names[:10])}")


def load_reported(folder: Path, protocol: str | None) -> pd.DataFrame:
    """A folder's finished runs at their last epoch. Raises: InputError if there are none, or protocols are mixed."""
    if (folder / MANIFEST).is_file():
        runs = load_runs(folder)
        if protocol is not None:
            runs = runs[(runs[["protocol", "extractor", "protocol_id"]] == protocol).any(axis=1)]
        mixed = runs.groupby(["dataset", "image_size"])["protocol_id"].unique()
        for place, ids in mixed[mixed.map(len) > 1].items():
            raise InputError(f"{folder} scored {place} under {', '.join(ids)}; choose one with --protocol {ids[0]}")
    else:
        runs = choose_protocol(load_collection(folder), protocol).runs
    reported = reported_rows(runs)
    if reported.empty:
        raise InputError(
            f"{folder} holds no finished run{f' under {protocol}' if protocol else ''}; nothing to compare"
        )
    return reported


def compare(a: pd.DataFrame, b: pd.DataFrame, threshold: float, margin: float = MARGIN) -> Comparison:
    """Pair the cells of two sets of reported rows, and test each measure.

    A field that has one value in all of A and another in all of B (as mixed_precision) is what they are compared in.
    Raises: InputError if they share no cell, or scored the same data under different protocols.
    """
    _require_one_protocol(a, b)
    settings = {}
    for name in (name for name in CELL if name not in ("variant", "dataset", "image_size", "sampler", "protocol_id")):
        values = [frame[name].map(lambda value: "" if pd.isna(value) else str(value)).unique() for frame in (a, b)]
        if len(values[0]) == len(values[1]) == 1 and values[0][0] != values[1][0]:
            settings[name] = (values[0][0], values[1][0])
    keys = [name for name in CELL if name not in settings]
    pairs = a[[*keys, "seed"]].merge(b[[*keys, "seed"]], on=[*keys, "seed"])
    if pairs.empty:
        raise InputError("A and B share no cell with a seed; compare collections of the same sweep")
    missing = [_cells_without(frame, pairs, keys) for frame in (a, b)]
    sides = pd.concat(
        [frame.merge(pairs, on=[*keys, "seed"]).assign(side=side) for frame, side in ((a, "a"), (b, "b"))],
        ignore_index=True,
    )
    parts = [_test(sides, measure, keys, margin) for measure in COMPARED]
    table = _judge(pd.concat(parts, ignore_index=True), threshold)
    for name, (_, value) in settings.items():
        table[name] = value
    return Comparison(table.reindex(columns=[column.name for column in COMPARE]), settings, *missing)


def _test(sides: pd.DataFrame, measure: str, keys: list[str], margin: float) -> pd.DataFrame:
    """Each cell's B against its A in one measure; only runs that have it on both sides count."""
    value = sides[measure].astype(float)
    rows = sides[np.isfinite(value)]
    rows = rows[rows.groupby([*keys, "seed"], dropna=False)["side"].transform("nunique") == 2]
    if MEASURES[measure].group == "posterior":
        rows = rows[rows["sampler"] == "prior"]
    cells = build_cells(lay_out(rows, [*keys, "side"], keys), measure)
    first, second = (np.flatnonzero(cells.keys["side"] == side) for side in "ab")
    second = second[np.argsort(cells.setting[second])]
    first = first[np.argsort(cells.setting[first])]
    test, paired, _ = cells.test(second, first)
    reach = compute_reach(test.error, test.df)
    centre = to_scale(cells.shown[first], cells.scale)
    low, high = (
        from_scale(centre + test.difference + side * reach, cells.scale) - cells.shown[first] for side in (-1, 1)
    )
    allowed = compute_margin(cells.shown[first], cells.scale, margin)
    alike = rows.groupby([*keys, "seed"], dropna=False)[measure].transform("nunique") == 1
    identical = alike.groupby(rows.groupby(keys, dropna=False, sort=False).ngroup()).all()  # in the order of settings
    return (
        cells.keys.loc[second, keys]
        .reset_index(drop=True)
        .assign(
            measure=measure,
            n=cells.n[second].astype(int),
            mean_a=cells.shown[first],
            mean_b=cells.shown[second],
            difference=cells.shown[second] - cells.shown[first],
            low=low,
            high=high,
            paired=np.where(paired, "yes", "no"),
            identical=identical.to_numpy(),
            p=test.p,
            p_equivalent=compute_p_equivalent(test.difference, test.error, test.df, allowed),
        )
    )


def _judge(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    identical = table["identical"].to_numpy(bool)
    p, equivalent = (np.where(identical, np.nan, table[name].to_numpy(float)) for name in ("p", "p_equivalent"))
    adjusted, inside = adjust_holm(p), adjust_holm(equivalent)
    difference = table["difference"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = difference / np.abs(table["mean_a"].to_numpy(float))
    verdicts, regressions = [], []
    for measure, same, change, p_holm, p_inside, seeds, share in zip(
        table["measure"], identical, difference, adjusted, inside, table["n"], relative, strict=True
    ):
        verdicts.append("identical" if same else judge(measure, change, p_holm, p_inside, seeds))
        better = MEASURES[measure].better
        worsening = 0 if better is None else share if better == "lower" else -share
        regressions.append("yes" if worsening > threshold and (seeds == 1 or p_holm < ALPHA) else "no")
    tested = {"relative": relative, "p": p, "p_holm": adjusted, "p_equivalent": inside}
    return table.assign(**tested, verdict=verdicts, regression=regressions)


def _require_one_protocol(a: pd.DataFrame, b: pd.DataFrame) -> None:
    place = ["dataset", "image_size"]
    ids = a[[*place, "protocol_id"]].drop_duplicates().merge(b[[*place, "protocol_id"]].drop_duplicates(), on=place)
    shared = ids[ids["protocol_id_x"] == ids["protocol_id_y"]]
    for (dataset, size), rows in ids.groupby(place):
        if not ((shared["dataset"] == dataset) & (shared["image_size"] == size)).any():
            first, second = rows[["protocol_id_x", "protocol_id_y"]].iloc[0]
            fields = ["protocol", "extractor", "n_real", "n_fake"]
            sides = [f[f["protocol_id"] == name][fields].iloc[0] for f, name in ((a, first), (b, second))]
            differing = [
                f"{name} ({sides[0][name]}, {sides[1][name]})" for name in fields if sides[0][name] != sides[1][name]
            ]
            raise InputError(
                f"{dataset} at {size} px was scored as {first} in A and as {second} in B, different quantities"
                f"{': ' + ', '.join(differing) if differing else ''}; score both under one protocol"
            )


def _cells_without(frame: pd.DataFrame, pairs: pd.DataFrame, keys: list[str]) -> list[str]:
    cells = frame[[*CELL]].drop_duplicates()
    paired = cells.merge(pairs[keys].drop_duplicates(), on=keys, how="left", indicator=True)
    alone = paired[paired["_merge"] == "left_only"]
    return [
        f"{label} on {name_place(row)}, {row['sampler']}"
        for label, (_, row) in zip(label_cells(alone), alone.iterrows(), strict=True)
    ]


def _name_places(comparison: Comparison, rows: pd.DataFrame) -> list[str]:
    """Where each row was compared; what A and B differ in as wholes belongs to neither place."""
    common = rows.assign(**{name: NEUTRAL[name] for name in comparison.settings if name in NEUTRAL})
    return [name_place(row) for _, row in common.iterrows()]


def print_comparison(comparison: Comparison, threshold: float) -> None:
    """What changed, a line each; what did not, counted."""
    table, output = comparison.table, Console(width=max(140, Console().width), highlight=False, markup=False)
    for name, (first, second) in comparison.settings.items():
        output.print(f"{name}: {first} in A, {second} in B")
    for side, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        for cell in cells:
            output.print(f"only in {side}: {cell}")
    quiet = table["verdict"].isin(["identical", "equivalent", "undecided"])
    counts = table["verdict"].value_counts()
    output.print("; ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f" of {len(table)} comparisons")
    changed = table[~quiet]
    if changed.empty:
        return
    shown = Table(title=f"Changes from A to B (a regression is one beyond {threshold:.0%})", title_justify="left")
    names = ("variant", "data set", "codes", "measure", "n", "A", "B", "B - A", "95 % interval", "p (Holm)", "verdict")
    for name in names:
        shown.add_column(name, no_wrap=True)
    places = _name_places(comparison, changed)
    for label, place, (_, row) in zip(label_cells(changed), places, changed.iterrows(), strict=True):
        interval = "" if pd.isna(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
        p = "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}"
        verdict = row["verdict"] + (", regression" if row["regression"] == "yes" else "")
        numbers = (f"{row['mean_a']:.3f}", f"{row['mean_b']:.3f}", f"{row['difference']:+.3f} ({row['relative']:+.1%})")
        shown.add_row(label, place, row["sampler"], row["measure"], str(row["n"]), *numbers, interval, p, verdict)
    output.print(shown)
