"""Tables as Markdown and as LaTeX (booktabs)."""

from collections.abc import Callable

import pandas as pd

from harness.escape import escape_latex, escape_markdown
from results.compute.processes import explain_marks, mark_n
from results.compute.summary import is_missing
from results.compute.tables import MARKED, SHOWN, PaperTable, format_cell, format_varied, is_baseline, shown_columns

NOTES = (
    "Underlined: the baseline. Bold: the best, where no other can be. †: among those that can be the best. What is "
    "marked holds the best with 95 % (one-sided moderated t tests, Hsu 1984)."
)
FOREIGN = "The published numbers were taken under another protocol, from one seed: not comparable with ours."
COMPARABLE = "The published numbers are of one seed."


def render_markdown(table: PaperTable) -> str:
    """A GitHub-flavoured table, its caption above and what the marks mean below."""
    styles = {"best": lambda text: f"**{text}**", "among the best": lambda text: f"{text} †"}
    header, cells = _layout(table, styles, lambda text: f"<u>{text}</u>", escape_markdown)
    lines = [
        f"**{escape_markdown(table.caption)}**",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' + ' ---: |' * (len(header) - 1)}",
    ]
    lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([*lines, "", *notes_of(table.rows), ""])


def render_latex(table: PaperTable) -> str:
    """A table environment; the preamble needs `\\usepackage{booktabs}`."""
    styles = {
        "best": lambda text: f"\\textbf{{{text}}}",
        "among the best": lambda text: f"{text}$^\\dagger$",
    }
    header, cells = _layout(table, styles, lambda text: f"\\underline{{{text}}}", escape_latex)
    is_reference = (table.rows["kind"] == "reference").tolist()
    body = []
    for number, row in enumerate(cells):
        if is_reference[number] and (number == 0 or not is_reference[number - 1]):
            body.append("\\midrule")
        body.append(" & ".join(row) + " \\\\")
    notes = " ".join(escape_latex(note) for note in notes_of(table.rows))
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escape_latex(table.caption)} {notes}}}",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            " & ".join(escape_latex(name) for name in header) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _layout(
    table: PaperTable,
    styles: dict[str, Callable[[str], str]],
    underline: Callable[[str], str],
    escape: Callable[[str], str],
) -> tuple[list[str], list[list[str]]]:
    rows, varied = table.rows, [table.varied] if table.varied else []
    sizes = rows["image_size"].nunique() > 1
    measures = shown_columns(rows)
    published = rows["published_fid"].notna().any()
    header = ["method", *varied, *(["px"] if sizes else []), "n", *(SHOWN[name][0] for name in measures)]
    header += ["FID (published)", "IS (published)"] if published else []
    cells = []
    for _, row in rows.iterrows():
        shown = []
        for name in measures:
            text = escape(format_cell(row, name))
            text = underline(text) if is_baseline(row) and name in MARKED and text else text
            shown.append(styles.get(row.get(f"{name}_mark") or "", lambda text: text)(text) if name in MARKED else text)
        label = escape(row["label"])
        line = [underline(label) if is_baseline(row) else label]
        line += [escape(format_varied(row, name)) for name in varied] + ([str(row["image_size"])] if sizes else [])
        line += [escape(mark_n(int(row["n"]), row["other_processes"])), *shown]
        line += [_plain(row["published_fid"]), _plain(row["published_inception_score"])] if published else []
        cells.append(line)
    return header, cells


def notes_of(rows: pd.DataFrame) -> list[str]:
    notes = [NOTES]
    notes += explain_marks(rows["label"], rows["other_processes"])
    if (rows.loc[rows["kind"] == "variant", "n"] == 1).any():
        notes.append("n = 1: a single seed, about which statistics say nothing.")
    if rows["published_fid"].notna().any():
        notes.append(COMPARABLE if (rows["published_comparable"] == "yes").all() else FOREIGN)
    return notes


def _plain(value: float) -> str:
    return "" if is_missing(value) else f"{value:g}"
