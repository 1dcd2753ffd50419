"""The report's tables: rows of cells with their text, what they are sorted by, and whom they concern."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from harness.measures import MEASURES, name_fid, select
from harness.record import PARTS_OF_AN_EVALUATION
from results.compute.analysis import Analysis
from results.compute.collapse import SAMPLERS
from results.compute.dose import RESPONSES
from results.compute.processes import MARK, NOTE, find_others, mark_n
from results.compute.statistics import ALPHA
from results.compute.summary import SETTING, TRAINED, is_missing
from results.compute.tables import MARKED, SHOWN, PaperTable, format_cell, format_varied, is_baseline, shown_columns
from results.read.labels import label_cells, name_place
from results.show.render import notes_of

MOST_ROWS = 1000  # of a table with a row per run; the CSV has all
OF_A_CELL = [*TRAINED, "epochs"]  # what a run has that tells its cell, before it is scored
TIMES = ("startup", "data", "training", "checkpoint", "evaluation", *PARTS_OF_AN_EVALUATION)
KINDS = {"better": "better", "worse": "worse", "undecided": "open"}  # how a verdict is coloured
REPORTED = [measure.name for measure in select(place="report")]


@dataclass(frozen=True)
class Cell:
    """`order`: the number to sort by, "" for none; None sorts by the text."""

    text: str
    order: float | str | None = None
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    cells: Sequence[Cell]
    dataset: str = ""
    variant: str = ""
    kind: str = ""


@dataclass(frozen=True)
class HtmlTable:
    """What the template's macro shows."""

    id: str
    title: str
    caption: str
    columns: list[dict[str, Any]]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def number(value: Any, digits: int, kind: str = "", sign: str = "") -> Cell:
    """A cell of a number, sorted at full precision; empty if it is missing."""
    if is_missing(value) or pd.isna(value):
        return Cell("", "", f"number {kind}".strip())
    return Cell(f"{value:{sign}.{digits}f}", float(value), f"number {kind}".strip())


def columns(names: Iterable[str], text: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": name, "numeric": name not in text} for name in names]


def say_once(table: HtmlTable | None, column: str = "data set") -> HtmlTable | None:
    """The table with a column that says the same in all of several rows moved to its caption: it is a wide one."""
    names = [each["name"] for each in table.columns] if table else []
    if table is None or column not in names or len(table.rows) < 2:
        return table
    place = names.index(column)
    if len({row.cells[place].text for row in table.rows}) > 1:
        return table
    rows = [replace(row, cells=[*row.cells[:place], *row.cells[place + 1 :]]) for row in table.rows]
    caption = f"{table.caption} All on {table.rows[0].cells[place].text}."
    return replace(table, columns=[*table.columns[:place], *table.columns[place + 1 :]], rows=rows, caption=caption)


def build_paper_table(table: PaperTable) -> HtmlTable:
    """One of the paper's tables: ours, then the published numbers."""
    measures = shown_columns(table.rows)
    published = bool(table.rows["published_fid"].notna().any())
    varied = [table.varied] if table.varied else []
    names = ["method", *varied, "px", "n", *(SHOWN[name][0] for name in measures)]
    names += ["FID (published)", "IS (published)"] if published else []
    rows = []
    for _, row in table.rows.iterrows():
        cells = [Cell(row["label"]), *(_varied(row, name) for name in varied)]
        cells += [number(row["image_size"], 0), _seeds(row)]
        for name in measures:
            mark = row.get(f"{name}_mark") if name in MARKED else ""
            mark = "" if is_missing(mark) else str(mark)
            text = format_cell(row, name) + (" †" if mark == "among the best" else "")
            kind = "number" + (" best" if mark == "best" else "") + (" bad" if text.startswith("not finite") else "")
            kind += " baseline" if is_baseline(row) and name in MARKED else ""
            order = "" if is_missing(row[f"{name}_mean"]) else float(row[f"{name}_mean"])
            cells.append(Cell(text, order, kind))
        if published:
            cells += [number(row["published_fid"], 3), number(row["published_inception_score"], 3)]
        kind = "reference" if row["kind"] == "reference" else "baseline" if is_baseline(row) else ""
        variant = "" if row["kind"] == "reference" else row["variant"]
        rows.append(Row(cells, row["dataset"], variant, kind))
    return HtmlTable(
        table.stem,
        table.caption,
        table.caption,
        columns(names, ["method"]),
        rows,
        notes_of(table.rows, list(table.rows["label"]), published),
    )


def _varied(row: pd.Series, name: str) -> Cell:
    is_number = isinstance(row[name], (int, float)) and not pd.isna(row[name])
    return Cell(format_varied(row, name), float(row[name]) if is_number else None, "number")


def build_comparison_table(
    comparisons: pd.DataFrame, stem: str = "comparisons", title: str = "Against the AAE"
) -> HtmlTable | None:
    """Every variant against the AAE; None without any."""
    table = comparisons[comparisons["measure"].isin(REPORTED)]
    if table.empty:
        return None
    told = [name for name in ("epochs", "sampler") if table[name].nunique() > 1]
    text = ["variant", "data set", "sampler", "measure", "verdict", "test"]
    names = ["variant", "data set", *told, "measure", "verdict", "n", "difference", "95 % interval", "p (Holm)"]
    names += ["AAE", "variant's", "ratio", "test", "more seeds"]
    rows = []
    for label, (_, row) in zip(label_cells(table), table.iterrows(), strict=True):
        digits = 2 if abs(row["baseline_mean"]) >= 10 else 3
        interval = ""
        if row["n"] >= 2:
            interval = f"{row['difference_low']:+.{digits}f} to {row['difference_high']:+.{digits}f}"
        kind = KINDS.get(row["verdict"], "")
        cells = [
            Cell(label),
            _place(row),
            *(Cell(row[name]) if name in text else number(row[name], 0) for name in told),
            Cell(MEASURES[str(row["measure"])].title),
            Cell(row["verdict"], kind=kind, title=str(row["note"] or "")),
            _seeds(row),
            number(row["difference"], digits, sign="+"),
            Cell(interval, "" if is_missing(row["difference_low"]) else row["difference_low"], "number"),
            number(row["p_holm"], 4),
            number(row["baseline_mean"], digits),
            number(row["mean"], digits),
            Cell(_ratio(row), "" if is_missing(row["ratio"]) else row["ratio"], "number"),
            Cell(row["test"]),
            _more_seeds(row["more_seeds"]),
        ]
        rows.append(Row(cells, row["dataset"], row["variant"]))
    caption = f"{title}: {len(rows)} comparisons; comparisons.csv has every measure."
    caption += f" {NOTE}" if (table["other_processes"].fillna("") != "").any() else ""
    return HtmlTable(stem, title, caption, columns(names, text), rows[:MOST_ROWS])


def _ratio(row: pd.Series) -> str:
    if is_missing(row["ratio"]) or is_missing(row["ratio_low"]):
        return ""
    return f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})"


def build_across_table(across: pd.DataFrame) -> HtmlTable | None:
    """Every variant over all its data sets; None where there are not two."""
    table = across[across["measure"].isin(REPORTED) & (across["sampler"] == "prior")]
    if table.empty:
        return None
    names = ["variant", "measure", "data sets", "ratio", "95 % interval", "between data sets", "p (Holm)"]
    rows = []
    for label, (_, row) in zip(label_cells(table), table.iterrows(), strict=True):
        end = "effect" if is_missing(row["ratio"]) else "ratio"
        cells = [
            Cell(label),
            Cell(MEASURES[str(row["measure"])].title_by(row["extractor"])),
            Cell(str(row["names"]), kind="wrap"),
            number(row[end], 3, sign="+" if end == "effect" else ""),
            Cell(f"{row[f'{end}_low']:.3f} to {row[f'{end}_high']:.3f}", row[f"{end}_low"], "number"),
            number(row["between"], 3),
            number(row["p_holm"], 4),
        ]
        rows.append(Row(cells, "", row["variant"]))
    caption = "Random effects over data sets (Hartung and Knapp's intervals); across_datasets.csv has every measure."
    return HtmlTable("across", "Over data sets", caption, columns(names, ["variant", "measure", "data sets"]), rows)


def build_spread_table(spread: pd.DataFrame, extractors: Iterable[str]) -> HtmlTable:
    """Where the spread of FID comes from, in the features of these extractors."""
    fid = name_fid(extractors)
    names = ["source", f"spread of {fid}", "groups", "evaluations", "to find out"]
    rows = [
        Row(
            [
                Cell(row["source"]),
                Cell("" if is_missing(row["deviation"]) else f"{row['deviation']:.1%}", row["deviation"], "number"),
                number(row["groups"], 0),
                number(row["evaluations"], 0),
                Cell(str(row["design"]), kind="wrap"),
            ]
        )
        for _, row in spread.iterrows()
    ]
    caption = f"What each source alone makes {fid} vary by (standard deviation, relative), from runs that exist."
    return HtmlTable("spread", "Where the spread comes from", caption, columns(names, ["source", "to find out"]), rows)


def _seeds(row: pd.Series) -> Cell:
    """Their number, marked where some were trained on another number of processes; which, when one points at it."""
    text = row["other_processes"]
    return Cell(mark_n(int(row["n"]), text), float(row["n"]), "number", "" if is_missing(text) else str(text))


def _place(row: pd.Series) -> Cell:
    return Cell(name_place(row))


def _more_seeds(value: float) -> Cell:
    if is_missing(value):
        return Cell("", "", "number")
    return Cell("over 1000" if value == float("inf") else f"{value:.0f}", min(value, 1e9), "number")


def build_collapse_tables(analysis: Analysis) -> list[HtmlTable]:
    """A row per run: its posterior at the first and the last evaluation, the onset of collapse, FID by codes."""
    table = analysis.frames["collapse"]
    if table.empty:
        return []
    samplers = [name for name in SAMPLERS if table[f"fid_{name}"].notna().any()]
    names = ["variant", "data set", "seed", "epoch", "sigma first", "sigma", "noise share", "collapse", "since epoch"]
    names += ["FID prior", *(f"FID {name}" for name in samplers), "FID then", "FID since", "std of mu", "units"]
    names += ["prior KL"]
    first = table.drop_duplicates("run_id").set_index("run_id")
    last = table.drop_duplicates("run_id", keep="last")
    rows = []
    for label, (_, row) in zip(label_cells(last), last.iterrows(), strict=True):
        cells = [
            Cell(label),
            _place(row),
            number(row["seed"], 0),
            number(row["epoch"], 0),
            number(first.loc[row["run_id"], "sigma_mean"], 3),
            number(row["sigma_mean"], 3),
            number(row["noise_share"], 3),
            Cell(str(row["collapse"]), kind="bad" if row["collapse"] in ("variance", "posterior") else ""),
            number(row["collapse_epoch"], 0),
            number(row["fid"], 2),
            *(number(row[f"fid_{name}"], 2) for name in samplers),
            number(row["fid_at_collapse"], 2),
            number(row["fid_since_collapse"], 2, sign="+"),
            number(row["mu_std"], 3),
            number(row["active_units"], 0),
            number(row["prior_kl"], 2),
        ]
        rows.append(Row(cells, row["dataset"], row["variant"]))
    caption = "Every run at its last evaluation (sigma first: at its first); collapse.csv has all evaluations."
    text = ["variant", "data set", "collapse"]
    return [HtmlTable("collapse-runs", "Collapse", caption, columns(names, text), rows[:MOST_ROWS], _cut(rows))]


def build_dose_table(responses: pd.DataFrame) -> HtmlTable | None:
    """How the samples go with the noise share, dose by dose; None without any."""
    table = responses.dropna(subset=["correlation"])
    if table.empty:
        return None
    text = ["variant", "data set", "dose", "response"]
    names = [
        "variant",
        "data set",
        "dose",
        "response",
        "levels",
        "n",
        "noise share",
        "correlation",
        "95 % interval",
        "p",
    ]
    rows = []
    for _, row in table.iterrows():
        title, more_is_better = RESPONSES[str(row["response"])]
        helps = (row["correlation"] > 0) == more_is_better
        kind = "open" if not row["p"] < ALPHA else "better" if helps else "worse"
        cells = [
            Cell(row["variant"]),
            _place(row),
            Cell(row["family"]),
            Cell(title),
            number(row["levels"], 0),
            number(row["n"], 0),
            Cell(f"{row['noise_low']:.3f} to {row['noise_high']:.3f}", row["noise_low"], "number"),
            number(row["correlation"], 2, kind, "+"),
            Cell("" if is_missing(row["low"]) else f"{row['low']:+.2f} to {row['high']:+.2f}", row["low"], "number"),
            number(row["p"], 4),
        ]
        rows.append(Row(cells, row["dataset"], row["variant"]))
    caption = (
        "Rank correlation of each response with the noise share, over the means of a dose's levels; dose.csv has its "
        "runs."
    )
    notes = ["Green: with more noise the samples are better; red: worse; at 0.05, each by itself.", *_cut(rows)]
    return HtmlTable("dose-response", "Dose and response", caption, columns(names, text), rows[:MOST_ROWS], notes)


def build_run_tables(analysis: Analysis) -> list[HtmlTable]:
    """A row per run at its last evaluation, of prior samples."""
    runs = analysis.collection.runs
    runs = runs[(runs["sampler"] == "prior") & runs["sampling_seed"].isna()].drop_duplicates("run_id", keep="last")
    names = ["variant", "data set", "seed", "state", "epoch", "of", "FID", "IS", "sigma", "noise share"]
    names += ["L1", "images/s", "processes", "interruptions", "run"]
    others = find_others(runs, runs.groupby(SETTING, dropna=False, sort=False).ngroup().to_numpy())
    rows = []
    for label, is_other, (_, row) in zip(label_cells(runs), others, runs.iterrows(), strict=True):
        flaws = [] if is_missing(row["not_finite"]) else str(row["not_finite"]).split()
        scores = [
            Cell(f"{row[name]:g}", "", "number bad") if name in flaws else number(row[name], digits)
            for name, digits in (("fid", 2), ("inception_score", 2), ("sigma_mean", 3), ("noise_share", 3))
        ]
        cells = [
            Cell(label),
            _place(row),
            number(row["seed"], 0),
            Cell(row["state"], kind="" if row["state"] == "done" else "open"),
            *(number(row[name], 0) for name in ("epoch", "epochs")),
            *scores,
            number(row["reconstruction_l1"], 3),
            number(row["images_per_second"], 0),
            _processes(row["num_processes"], is_other),
            number(row["interruptions"], 0),
            Cell(row["run_id"]),
        ]
        rows.append(Row(cells, row["dataset"], row["variant"]))
    caption = "Every run at its last evaluation; runs.csv has all evaluations and all columns."
    caption += f" {NOTE}" if others.any() else ""
    text = ["variant", "data set", "state", "run"]
    return [HtmlTable("all-runs", "Runs", caption, columns(names, text), rows[:MOST_ROWS], _cut(rows))]


def _processes(n: float, is_other: bool) -> Cell:
    cell = number(n, 0)
    return replace(cell, text=f"{cell.text} {MARK}") if is_other else cell


def build_failure_table(analysis: Analysis) -> HtmlTable | None:
    """Folders that are unfinished, failed or damaged, and finished runs that are odd; None without any."""
    problems = analysis.frames["problems"]
    if problems.empty:
        return None
    rows = [
        Row([Cell(row["run_id"]), Cell(row["state"]), Cell(row["reason"], kind="wrap")])
        for _, row in problems.iterrows()
    ]
    caption = "Failed and damaged runs are in no average; nor are unfinished ones, whose evaluations so far are drawn. "
    caption += "Odd ones, far off the other seeds of their cell, are in all of them."
    names = ["run", "state", "reason"]
    return HtmlTable("problems", "Failures", caption, columns(names, names), rows[:MOST_ROWS], _cut(rows))


def _join_provenance(analysis: Analysis) -> pd.DataFrame:
    """The provenance of each run that has been evaluated, and all that makes its cell."""
    runs = analysis.collection.runs.drop_duplicates("run_id")[[*OF_A_CELL, "run_id"]]
    provenance = analysis.frames["provenance"]
    return runs.merge(provenance[["run_id", *provenance.columns.difference(runs.columns)]], on="run_id")


def build_time_table(analysis: Analysis) -> HtmlTable | None:
    """Where a run's time goes, on average over the runs of a cell; None where no run has recorded it."""
    runs = _join_provenance(analysis)
    hours = [f"{part}_hours" for part in TIMES]
    if not runs[hours].to_numpy(float).any():
        return None
    cells = runs.groupby(OF_A_CELL, dropna=False, sort=False)
    means = cells[hours].mean().mul(3600).assign(n=cells.size()).reset_index()
    shown = [name for name in hours if means[name].any()]
    names = ["variant", "data set", "epochs", "runs", *(name.removesuffix("_hours") for name in shown)]
    rows = [
        Row(
            [Cell(label), _place(row), *(number(row[name], 0) for name in ("epochs", "n"))]
            + [number(row[name], 1) for name in shown],
            row["dataset"],
            row["variant"],
        )
        for label, (_, row) in zip(label_cells(means), means.iterrows(), strict=True)
    ]
    caption = "Seconds of a run, on average; what follows evaluation is part of it. provenance.csv has every run."
    return HtmlTable(
        "time", "Where time goes", caption, columns(names, ["variant", "data set"]), rows[:MOST_ROWS], _cut(rows)
    )


def build_cost_tables(analysis: Analysis) -> list[HtmlTable]:
    """What the runs of each cell and of each sweep took: hours, GPU-hours, and kWh where all of them know it."""
    costs = ["training_hours", "evaluation_hours", "gpu_hours", "energy_kwh"]
    titles = ["runs", "training, h", "evaluation, h", "GPU-hours", "energy, kWh"]
    energy = "Energy is the GPUs', by NVML, and stands where it is known of every run."

    def add_up(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        groups = runs.groupby(keys, dropna=False, sort=False)
        sums = groups[costs].agg(lambda values: values.sum(skipna=False))
        return sums.assign(n=groups.size()).reset_index()

    def show(row: pd.Series) -> list[Cell]:
        digits = (0, 2, 2, 2, 3)
        return [number(row[name], most) for name, most in zip(["n", *costs], digits, strict=True)]

    cells = add_up(_join_provenance(analysis), OF_A_CELL)
    of_cells = [
        Row([Cell(label), _place(row), number(row["epochs"], 0), *show(row)], row["dataset"], row["variant"])
        for label, (_, row) in zip(label_cells(cells), cells.iterrows(), strict=True)
    ]
    sweeps = add_up(analysis.frames["provenance"].fillna({"sweep": "no sweep"}), ["sweep"])
    of_sweeps = [Row([Cell(row["sweep"]), *show(row)]) for _, row in sweeps.iterrows()]
    tables = [
        HtmlTable(
            "cost-cell",
            "Cost by cell",
            f"Of all runs that have been evaluated, finished or not. {energy}",
            columns(["variant", "data set", "epochs", *titles], ["variant", "data set"]),
            of_cells[:MOST_ROWS],
            _cut(of_cells),
        ),
        HtmlTable(
            "cost-sweep",
            "Cost by sweep",
            "Of all runs that could be read, finished or not; each is of one sweep, the first that asked for it. "
            + energy,
            columns(["sweep", *titles], ["sweep"]),
            of_sweeps[:MOST_ROWS],
            _cut(of_sweeps),
        ),
    ]
    return [table for table in tables if table.rows]


def build_protocol_tables(analysis: Analysis) -> list[HtmlTable]:
    """The definitions of the protocols, where recorded; the gap between paper and clean; what two extractors say."""
    tables = []
    protocols, gap = analysis.frames["protocols"], analysis.frames["gap"]
    if len(protocols):
        ids = list(protocols["protocol_id"].unique())
        wide = protocols.pivot_table(index="field", columns="protocol_id", values="value", aggfunc="first")[ids]
        rows = [
            Row([Cell(str(name)), *(Cell("" if is_missing(value) else str(value), kind="wrap") for value in values)])
            for name, values in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        names = ["field", *ids]
        tables.append(
            HtmlTable("protocols", "Protocols", "What the protocol ids stand for.", columns(names, names), rows)
        )
    if len(gap):
        names = ["variant", "data set", "codes", "FID paper", "FID clean", "clean - paper"]
        rows = [
            Row(
                [
                    Cell(label),
                    _place(row),
                    Cell(row["sampler"]),
                    number(row["fid_paper"], 2),
                    number(row["fid_clean"], 2),
                    number(row["fid_gap"], 2, sign="+"),
                ],
                row["dataset"],
                row["variant"],
            )
            for label, (_, row) in zip(label_cells(gap), gap.iterrows(), strict=True)
        ]
        caption = "The same cells scored with batch statistics (paper) and with running statistics (clean)."
        tables.append(HtmlTable("gap", "Gap", caption, columns(names, ["variant", "data set", "codes"]), rows))
    if agreement := build_agreement_table(analysis.frames["agreement"]):
        tables.append(agreement)
    return tables


def build_agreement_table(agreement: pd.DataFrame) -> HtmlTable | None:
    """What two extractors say of each variant, the disagreements first; None where one alone has looked."""
    if agreement.empty:
        return None
    order = ["disagree", "open", "agree"]
    agreement = agreement.sort_values("agreement", key=lambda column: column.map(order.index), kind="stable")
    names = ["variant", "data set", "n", "extractor", "over AAE's", "verdict", "another", "over AAE's", "verdict", ""]
    rows = [
        Row(
            [
                Cell(label),
                _place(row.drop("extractor")),
                number(row["n"], 0),
                *(
                    cell
                    for side in ("", "_other")
                    for cell in (
                        Cell(row[f"extractor{side}"]),
                        number(row[f"ratio{side}"], 3),
                        Cell(row[f"verdict{side}"], kind=KINDS.get(row[f"verdict{side}"], "")),
                    )
                ),
                Cell(row["agreement"], kind="worse" if row["agreement"] == "disagree" else ""),
            ],
            row["dataset"],
            row["variant"],
        )
        for label, (_, row) in zip(label_cells(agreement), agreement.iterrows(), strict=True)
    ]
    caption = (
        "The same trained runs, seen by two networks: the Frechet distance over the AAE's, and the verdict of each."
    )
    text = ["variant", "data set", "extractor", "verdict", "another", ""]
    pairs = agreement.drop_duplicates(["dataset", "image_size", "protocol_id", "protocol_id_other"])
    notes = [
        f"{row['dataset']} at {row['image_size']} px: over {row['runs']} runs the distances of {row['extractor']} and "
        f"{row['extractor_other']} have a rank correlation of {row['correlation']:.2f}."
        for _, row in pairs.iterrows()
    ]
    return HtmlTable(
        "agreement", "Two pairs of eyes", caption, columns(names, text), rows[:MOST_ROWS], [*notes, *_cut(rows)]
    )


def _cut(rows: list[Row]) -> list[str]:
    return [f"The first {MOST_ROWS} of {len(rows)}; the CSV has all."] if len(rows) > MOST_ROWS else []
