"""Two collections side by side (two commits, two clusters, two precisions): what changed beyond noise."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter
from rich.table import Table

from harness.errors import CommandError, InputError
from harness.files import make_folder
from harness.measures import MEASURES
from harness.terminal import print_table
from results.commands import load_collection, print_problems
from results.compute.baseline import COMPARED, judge
from results.compute.cells import build_cells, lay_out
from results.compute.processes import MARK, OTHER_PROCESSES, explain_marks, mark_n
from results.compute.statistics import (
    ALPHA,
    MARGIN,
    Array,
    adjust_holm,
    compute_margin,
    compute_p_equivalent,
    compute_reach,
    from_scale,
    is_sound,
    require_margin,
    to_scale,
)
from results.compute.summary import CELL, SUMMARY, list_by_cell, reported_rows
from results.read.labels import NEUTRAL, add_label, distinguishing_options, name_place
from results.read.protocols import choose_protocol
from results.read.schema import Column
from results.show.write import MANIFEST, load_runs, write_table

_CELL_COLUMNS = {column.name: column for column in SUMMARY}
COMPARE = [
    *(_CELL_COLUMNS[name] for name in CELL),
    Column("measure", "string", "what is compared"),
    Column("n", "integer", "seeds that finished in both"),
    Column(OTHER_PROCESSES.name, "string", "seeds that were trained on another number of processes in B than in A"),
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


MOST_NAMED = 10  # in an error's message; standard output has all
OTHERWISE = f"{MARK}: trained on another number of processes in B than in A."


class NotAsGoodError(CommandError):
    """B is worse than A by more than the threshold, or lacks some of what A has."""


Name = tuple[str, str, str]  # of a cell: the variant, the data set and all that is not the paper's, the codes


@dataclass(frozen=True)
class Comparison:
    """`table`: COMPARE; `names`: of its rows. `settings`: fields in which A and B differ as wholes.

    `missing`: the cells, seeds and scores of A that B lacks, and scores of either that are not finite. `only_b`: the
    cells and seeds that A lacks.
    """

    table: pd.DataFrame
    names: list[Name]
    settings: dict[str, tuple[str, str]]
    missing: list[str]
    only_b: list[str]


def compare_command(
    a: Path,
    b: Path,
    /,
    *,
    threshold: float = 0.05,
    margin: float = MARGIN,
    protocol: str | None = None,
    allow_missing: Annotated[bool, Parameter(negative="")] = False,
    out: Path | None = None,
) -> None:
    """Say what changed from A to B beyond noise, and what B lacks.

    Runs of the same seed are compared as pairs where the seeds' scores go together. A regression is a score that is
    worse by more than the threshold and, with two seeds or more, beyond noise (moderated t test, Holm over all
    comparisons, 0.05). With a single seed the threshold alone decides, and says so. The exit status is in --help.

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
    allow_missing
        Compare what there is in both; what is missing is named, and changes the exit status no more.
    out
        A folder for compare.csv and compare.parquet. [default: none]
    """
    if not threshold >= 0:
        raise InputError(f"--threshold {threshold} is no fraction of a score; 0 or more, as in --threshold 0.05")
    require_margin(margin)
    comparison = compare(load_reported(a, protocol), load_reported(b, protocol), threshold, margin)
    if out is not None:
        try:
            make_folder(out)
            write_table(comparison.table, COMPARE, out / "compare.csv")
        except OSError as error:
            raise InputError(f"cannot write to {out}: {error}; choose another folder with --out") from error
    print_comparison(comparison, threshold)
    worse = _name_regressions(comparison)
    complaints = [f"{len(worse)} regressions beyond {threshold:.0%}: {_list(worse)}"] if worse else []
    if comparison.missing and not allow_missing:
        complaints.append(
            f"{len(comparison.missing)} missing: {_list(comparison.missing)}\n"
            "(--allow-missing compares what there is in both)"
        )
    if complaints:
        raise NotAsGoodError("\n".join(complaints))


def _name_regressions(comparison: Comparison) -> list[str]:
    rows = zip(comparison.names, comparison.table["measure"], comparison.table["regression"], strict=True)
    return [f"{_join(*name)}: {measure}" for name, measure, regression in rows if regression == "yes"]


def _list(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return "; ".join(names[:MOST_NAMED]) + (f"; and {more} more, named above" if more > 0 else "")


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
        collection = choose_protocol(load_collection(folder), protocol)
        print_problems(collection.problems)
        runs = collection.runs
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
    sides = pd.concat(
        [frame.merge(pairs, on=[*keys, "seed"]).assign(side=side) for frame, side in ((a, "a"), (b, "b"))],
        ignore_index=True,
    )
    parts = [_test(sides, measure, keys, margin) for measure in COMPARED]
    table = _judge(pd.concat(parts, ignore_index=True), threshold)
    for name, (_, value) in settings.items():
        table[name] = value
    both = a.merge(b, on=[*keys, "seed"], suffixes=("_a", "_b"))
    table = table.merge(_describe_processes(both, keys), on=keys, how="left")
    processes = [both[f"num_processes_{side}"].dropna().unique() for side in "ab"]
    if len(processes[0]) == len(processes[1]) == 1 and processes[0][0] != processes[1][0]:
        settings["num_processes"] = (f"{processes[0][0]:.0f}", f"{processes[1][0]:.0f}")
        table[OTHER_PROCESSES.name] = ""  # there is no seed that stands out
    names = Names(pd.concat([a, b])[CELL].drop_duplicates(), settings)
    return Comparison(
        table.reindex(columns=[column.name for column in COMPARE]),
        names.of(table),
        settings,
        [*_list_lacking(a, b, keys, names), *_list_lacking_scores(both, keys, names)],
        [*_list_lacking(b, a, keys, names)],
    )


def _test(sides: pd.DataFrame, measure: str, keys: list[str], margin: float) -> pd.DataFrame:
    """Each cell's B against its A in one measure; only runs that have it on both sides count."""
    rows = sides[is_sound(sides[measure].to_numpy(float, na_value=np.nan))]
    rows = rows[rows.groupby([*keys, "seed"], dropna=False)["side"].transform("nunique") == 2]
    if MEASURES[measure].group != "eval":
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


class Names:
    """What cells are called: different ones differently, and no other than those of the same cells of the other side.

    Args: cells: CELL, of both sides. settings: the fields in which A and B differ as wholes, which belong to neither.
    """

    def __init__(self, cells: pd.DataFrame, settings: dict[str, tuple[str, str]]) -> None:
        self.usual = {name: NEUTRAL.get(name, "{}") for name in settings if name in (*NEUTRAL, "options")}
        cells = cells.assign(**self.usual)
        pairs = zip(cells["variant"], cells["options"], strict=True)
        self.options = dict(zip(pairs, distinguishing_options(cells), strict=True))
        self.has_budgets = cells["epochs"].nunique() > 1 and "epochs" not in settings

    def of(self, rows: pd.DataFrame) -> list[Name]:
        names = []
        for _, row in rows.assign(**self.usual).iterrows():
            variant = add_label(row["variant"], self.options[row["variant"], row["options"]])
            budget = f", {row['epochs']} epochs" if self.has_budgets else ""
            names.append((variant, name_place(row) + budget, row["sampler"]))
        return names


def _join(variant: str, place: str, codes: str) -> str:
    return f"{variant} on {place}, {codes}"


def _list_lacking(frame: pd.DataFrame, other: pd.DataFrame, keys: list[str], names: Names) -> Iterator[str]:
    """The cells and seeds of a side that the other one lacks."""
    there = other[[*keys, "seed"]].drop_duplicates().assign(there=True)
    rows = frame.merge(there, on=[*keys, "seed"], how="left")
    whole = rows.groupby(keys, dropna=False, sort=False)["there"].transform("count") == 0
    for found, how in ((whole, "the whole cell, "), (~whole, "")):
        yield from _list_seeds(rows[rows["there"].isna() & found], keys, names, f"{{name}}: {how}{{seeds}}")


def _list_lacking_scores(both: pd.DataFrame, keys: list[str], names: Names) -> Iterator[str]:
    """What runs of both sides have not: scores that are not finite, and those of A that were not measured in B."""
    for measure in COMPARED:
        rows = both[both["sampler"] == "prior"] if MEASURES[measure].group != "eval" else both
        has_a, has_b = (is_sound(rows[f"{measure}_{side}"].to_numpy(float, na_value=np.nan)) for side in "ab")
        bad_a, bad_b = (_is_noted(rows[f"not_finite_{side}"], measure) for side in "ab")
        for found, what in (
            (bad_a, "is not finite in A"),
            (bad_b, "is not finite in B"),
            (has_a & ~has_b & ~bad_b, "was not measured in B"),
        ):
            yield from _list_seeds(rows[found], keys, names, f"{{name}}: {measure} of {{seeds}} {what}")


def _is_noted(noted: pd.Series, measure: str) -> Array:
    return np.array([isinstance(names, str) and measure in names.split() for names in noted], bool)


def _list_seeds(rows: pd.DataFrame, keys: list[str], names: Names, text: str) -> Iterator[str]:
    """The text for each cell of the rows, with its name and their seeds."""
    if len(rows):
        for _, cell in rows.groupby(keys, dropna=False, sort=False):
            (name,), seeds = names.of(cell.iloc[:1]), sorted(cell["seed"].unique())
            called = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            yield text.format(name=_join(*name), seeds=called)


def _describe_processes(both: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """`keys`, and which seeds of the cell were trained on how many processes in A and in B, where that differs."""
    number = both.groupby(keys, dropna=False, sort=False).ngroup().to_numpy()
    cells = both.loc[~pd.Series(number, index=both.index).duplicated(), keys]
    texts: list[str | None] = [None] * len(both)
    first, second = (both[f"num_processes_{side}"].to_numpy(float, na_value=np.nan) for side in "ab")
    for row in np.flatnonzero(np.isfinite(first) & np.isfinite(second) & (first != second)):
        texts[row] = f"seed {both['seed'].iloc[row]} on {first[row]:.0f} in A and {second[row]:.0f} in B"
    differing = [", ".join(dict.fromkeys(parts)) for parts in list_by_cell(number, pd.Series(texts))]
    return cells.assign(**{OTHER_PROCESSES.name: differing})


def print_comparison(comparison: Comparison, threshold: float) -> None:
    """What changed, a line each; what did not, counted."""
    table = comparison.table
    for name, (first, second) in comparison.settings.items():
        print(f"{name}: {first} in A, {second} in B")
    for what, names in (("missing", comparison.missing), ("only in B", comparison.only_b)):
        for name in names:
            print(f"{what}: {name}")
    counts = table["verdict"].value_counts()
    print("; ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f" of {len(table)} comparisons")
    quiet = table["verdict"].isin(["identical", "equivalent", "undecided"])
    changed = table.assign(label=[_join(*name) for name in comparison.names])[~quiet]
    if changed.empty:
        return
    shown = Table()
    names = ("variant", "data set", "codes", "measure", "n", "A", "B", "B - A", "95 % interval", "p (Holm)", "verdict")
    for name in names:
        shown.add_column(name, no_wrap=True)
    for place, row in changed.iterrows():
        interval = "" if pd.isna(row["low"]) else f"{row['low']:+.6g} to {row['high']:+.6g}"
        p = "" if pd.isna(row["p_holm"]) else f"{row['p_holm']:.3g}"
        verdict = row["verdict"] + (", regression" if row["regression"] == "yes" else "")
        numbers = (f"{row['mean_a']:.6g}", f"{row['mean_b']:.6g}", f"{row['difference']:+.6g} ({row['relative']:+.1%})")
        n = mark_n(row["n"], row[OTHER_PROCESSES.name])
        shown.add_row(*comparison.names[int(str(place))], row["measure"], n, *numbers, interval, p, verdict)
    print_table(shown, f"Changes from A to B (a regression is one beyond {threshold:.0%})")
    for note in explain_marks(changed["label"], changed[OTHER_PROCESSES.name], OTHERWISE):
        print(note)
