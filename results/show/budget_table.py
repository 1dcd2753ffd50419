"""The report's table of what searches found: each variant's best trial, and how it compares at equal budgets."""

import json

import pandas as pd

from results.read.labels import format_value, label_cells, name_place
from results.show.report_tables import Cell, HtmlTable, Row, columns, number

INTRO = """
Each variant at its own best of equally many trials, the same draws for all. The best is chosen on held-out sampling
seeds where the runs have them, and never reported by the score that chose it: on another sampling seed of the trial,
or trained again with fresh seeds (aaebench tune), which alone are compared with the AAE's and bear verdicts. The curves
show what the best of k random trials is expected to score. A trial that failed counts as the worst that any variant
finished with; fresh seeds that failed are counted beside n, and decide nothing in their variant's favour. A best trial
at the edge of its search says: search further.
"""


def describe_draw(draw: object) -> str:
    """The drawn values, as `--set` takes them; nothing where no trial was chosen."""
    values = json.loads(draw) if isinstance(draw, str) else {}
    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())


def build_tuned_table(tuned: pd.DataFrame) -> HtmlTable | None:
    """A row for each variant of each search; None where nobody searched."""
    if tuned.empty:
        return None
    names = ["variant", "data set", "trials", "failed", "best trial", "at the edge in", "FID", "95 % interval", "n"]
    names += ["fresh failed", "reported on", "over the AAE's", "p (Holm)", "verdict"]
    rows, notes = [], []
    for label, (_, row) in zip(label_cells(tuned), tuned.iterrows(), strict=True):
        edge, verdict, reported_on = (
            row[name] if isinstance(row[name], str) else "" for name in ("edge", "verdict", "reported_on")
        )
        draw = describe_draw(row["draw"])
        cells = [
            Cell(label),
            Cell(name_place(row)),
            number(row["trials"], 0),
            number(row["failed"], 0),
            Cell(f"{draw}, best of {row['budget']}" if draw else "none: fewer than two trials that all have"),
            Cell(edge, kind="open" if edge else ""),
            number(row["fid_mean"], 2),
            Cell(_interval(row, "fid_low", "fid_high", 2), _order(row["fid_low"]), "number"),
            number(row["n"], 0),
            number(row["fresh_failed"], 0),
            Cell(reported_on),
            Cell(_ratio(row), _order(row["ratio"]), "number"),
            number(row["p_holm"], 4),
            Cell(verdict, kind={"better": "better", "worse": "worse", "undecided": "open"}.get(verdict, "")),
        ]
        rows.append(Row(cells, row["dataset"], row["variant"]))
        notes += [f"{label} on {name_place(row)}: {row['note']}."] if row["note"] else []
    caption = "FID of the best trial of each variant; tuned.csv has all columns, budgets.csv the curves."
    text = ["variant", "data set", "best trial", "at the edge in", "reported on", "verdict"]
    return HtmlTable("tuned", "Equal budgets", caption, columns(names, text), rows, notes)


def _ratio(row: pd.Series) -> str:
    interval = _interval(row, "ratio_low", "ratio_high", 3)
    return f"{row['ratio']:.3f} ({interval})" if interval else ""


def _interval(row: pd.Series, low: str, high: str, digits: int) -> str:
    return "" if pd.isna(row[low]) else f"{row[low]:.{digits}f} to {row[high]:.{digits}f}"


def _order(value: float) -> float | str:
    return "" if pd.isna(value) else float(value)
