"""Tables as a paper takes them: Markdown, and LaTeX (booktabs) that is as wide as the column it stands in."""

import re
from collections.abc import Sequence

import pandas as pd

from harness.errors import InputError
from harness.escape import escape_latex, escape_markdown
from harness.measures import MEASURES
from results.compute.processes import explain_marks, mark_n
from results.compute.summary import is_missing
from results.compute.tables import MARKED, SHOWN, PaperTable, format_cell, format_varied, is_baseline
from results.read.labels import PAPER_NAMES

PUBLISHED = {"published_fid": "FID (published)", "published_inception_score": "IS (published)"}
COLUMNS = {"n": "n", **{name: title for name, (title, _) in SHOWN.items()}, **PUBLISHED}
PAPERS = ("n", "fid", "inception_score")  # what the paper's own tables have, and how many seeds ours are of
NOTES = (
    "Underlined: the baseline. Bold: the best, where no other can be. †: among those that can be the best. What is "
    "marked holds the best with 95 % (one-sided moderated t tests, Hsu 1984)."
)
FOREIGN = "The published numbers were taken under another protocol, from one seed: not comparable with ours."
COMPARABLE = "The published numbers are of one seed."


def require_columns(columns: Sequence[str]) -> None:
    """Raises: InputError, naming those there are, for a column that is none, or none at all."""
    valid = f"those there are: {', '.join(COLUMNS)}"
    if not columns:
        raise InputError(f"--columns names no column; {valid}")
    if wrong := [name for name in columns if name not in COLUMNS]:
        raise InputError(f"--columns: the tables have no column {', '.join(map(repr, wrong))}; {valid}")


def render_markdown(table: PaperTable, columns: Sequence[str] = PAPERS) -> str:
    """A GitHub-flavoured table, its caption above, what the marks mean below. Args: columns: of COLUMNS, in order."""

    def show(row: pd.Series, name: str) -> str:
        text = escape_markdown(_text(row, name))
        if name not in MARKED or not text:
            return text
        text = f"<u>{text}</u>" if is_baseline(row) else text
        return {"best": f"**{text}**", "among the best": f"{text} †"}.get(row[f"{name}_mark"], text)

    told = _telling(table)
    header = ["method", *told, *(COLUMNS[name] for name in columns)]
    lines = [
        f"**{escape_markdown(table.caption)}**",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' + ' ---: |' * (len(header) - 1)}",
    ]
    for _, row in table.rows.iterrows():
        method = escape_markdown(_method(row))
        cells = [f"<u>{method}</u>" if is_baseline(row) else method]
        cells += [escape_markdown(format_varied(row, name)) for name in told.values()]
        lines.append(f"| {' | '.join([*cells, *(show(row, name) for name in columns)])} |")
    return "\n".join([*lines, "", *_notes(table.rows, columns), ""])


def render_latex(table: PaperTable, columns: Sequence[str] = PAPERS) -> str:
    """A table environment as wide as a line; the preamble needs `\\usepackage{booktabs,tabularx}`.

    The first column takes what room the numbers leave, and breaks its lines. A mean, ± and its deviation are columns of
    their own, so that decimal points stand below each other. Args: columns: of COLUMNS, in order.
    """
    told = _telling(table)
    spread = [name in SHOWN for name in columns]
    kinds = "".join("r@{\\,}c@{\\,}r" if three else "r" for three in spread)
    titles = [escape_latex(name) for name in ("method", *told)]
    titles += [
        f"\\multicolumn{{3}}{{c}}{{{_title(name)}}}" if three else escape_latex(COLUMNS[name])
        for name, three in zip(columns, spread, strict=True)
    ]
    body, block = [], None
    for _, row in table.rows.iterrows():
        before, block = block, (row["kind"], *(format_varied(row, name) for name in told.values()))
        if before not in (None, block):
            body.append("\\midrule")
        method = _breakable(escape_latex(_method(row)))
        cells = [re.sub(r"^(\S+)", r"\\underline{\1}", method) if is_baseline(row) else method]
        cells += [escape_latex(format_varied(row, name)) for name in told.values()]
        cells += [_latex_cell(row, name) for name in columns]
        body.append(" & ".join(cells) + " \\\\")
    notes = " ".join(escape_latex(note) for note in _notes(table.rows, columns))
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering\\small\\sloppy",
            "\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape_latex(re.sub(r'^Table [0-9]+: ', '', table.caption))} {notes}}}",  # LaTeX counts
            f"\\label{{tab:{table.stem.replace('_', '-')}}}",
            f"\\begin{{tabularx}}{{\\linewidth}}{{@{{}}>{{\\raggedright\\arraybackslash}}X{'r' * len(told)}{kinds}}}",
            "\\toprule",
            " & ".join(titles) + " \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabularx}",
            "\\end{table}",
            "",
        ]
    )


def _latex_cell(row: pd.Series, name: str) -> str:
    """One column's part of a line: a number, or three cells of mean, ± and deviation."""
    text = _text(row, name)
    if name not in SHOWN:
        return escape_latex(text)
    mean, _, deviation = text.partition(" ± ")
    if not re.fullmatch(r"-?[\d.]*", mean):
        return f"\\multicolumn{{3}}{{r}}{{\\scriptsize {escape_latex(text)}}}"
    mean = f"${mean}$" if mean.startswith("-") else mean  # a minus, no hyphen
    mark = row[f"{name}_mark"] if name in MARKED else ""
    cells = [mean, "$\\pm$" if deviation else "", deviation]
    if name in MARKED and mean and is_baseline(row):
        cells[0] = f"\\underline{{{mean}}}"
    if mark == "best":
        cells = [f"\\textbf{{{cell}}}" if cell and "pm" not in cell else cell for cell in cells]
    if mark == "among the best":
        cells[2] += "\\rlap{$^\\dagger$}"  # takes no room: the numbers stay aligned
    return " & ".join(cells)


def _title(name: str) -> str:
    """A score's title, and an arrow in the direction that is better."""
    arrow = {"lower": " $\\downarrow$", "higher": " $\\uparrow$", None: ""}[MEASURES[name].better]
    return escape_latex(COLUMNS[name]) + arrow


def _breakable(text: str) -> str:
    """LaTeX that may go on in the next line within a name, as a path of options has no spaces."""
    return re.sub(r"(\\_|[=:]|\.(?=\D))", r"\1\\allowbreak{}", text)


def _telling(table: PaperTable) -> dict[str, str]:
    """Titles and names of the columns beside the method that tell rows apart."""
    varied = {table.varied: table.varied} if table.varied else {}
    return varied | ({"px": "image_size"} if table.rows["image_size"].nunique() > 1 else {})


def _method(row: pd.Series) -> str:
    """The variant as the paper calls it, with the options that tell it from others; or the reference."""
    variant = row["variant"]
    if row["kind"] == "reference" or variant not in PAPER_NAMES:
        return row["label"]
    return PAPER_NAMES[variant] + row["label"].removeprefix(variant)


def _text(row: pd.Series, name: str) -> str:
    if name == "n":
        return mark_n(int(row["n"]), row["other_processes"])
    if name in PUBLISHED:
        return "" if is_missing(row[name]) else f"{row[name]:.3f}"
    return format_cell(row, name)


def _notes(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    return notes_of(rows, [_method(row) for _, row in rows.iterrows()], any(name in PUBLISHED for name in columns))


def notes_of(rows: pd.DataFrame, labels: Sequence[str], published: bool) -> list[str]:
    """What the marks of a table mean. Args: labels: what its rows are called. published: whether it shows PUBLISHED."""
    notes = [NOTES, *explain_marks(labels, rows["other_processes"])]
    if (rows.loc[rows["kind"] == "variant", "n"] == 1).any():
        notes.append("n = 1: a single seed, about which statistics say nothing.")
    if published and rows["published_fid"].notna().any():
        notes.append(COMPARABLE if (rows["published_comparable"] == "yes").all() else FOREIGN)
    return notes
