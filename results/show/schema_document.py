"""results/SCHEMA.md, written from the schema itself: `python -m results.show.schema_document`."""

from pathlib import Path

from results.compute.analysis import FILES
from results.compute.tables import TABLE
from results.read.schema import SCHEMA_VERSION, render_columns

DOCUMENT = Path(__file__).parents[1] / "SCHEMA.md"
HEAD = f"""# The tables of a collection

Schema version {SCHEMA_VERSION}, which `collection.json` and the metadata of every Parquet file state
(`aaebench_schema_version`). It is raised when a column changes its name, type or meaning, or goes away; a new column
does not raise it.

`aaebench collect` and `aaebench report` write each table twice, as `<name>.csv` (UTF-8, comma, header) and as
`<name>.parquet`, with the same columns in the same order. string is UTF-8, integer 64-bit, number a 64-bit float. A
value that is missing is empty in CSV and null in Parquet; a score that was recorded and is not a number is `nan` in
both, and named in the column `not_finite`, as are infinite ones and those beyond 1e30: nothing is computed with them.
In CSV a text that begins with =, +, -, @, a tab or a carriage return has an apostrophe before it, since a spreadsheet
would compute it. Every table is tidy: a row for each of what its first line says.

This file is written by `python -m results.show.schema_document`; a test compares it with the code.
"""


def render_document() -> str:
    parts = [HEAD]
    for name, (columns, row) in FILES.items():
        parts.append(f"## {name}\n\nA row for each: {row}.\n\n{render_columns(columns)}\n")
    row = "a line of one of the paper's tables, or of one like them for other data"
    parts.append(f"## tables/table*\n\nA row for each: {row}.\n\n{render_columns(TABLE)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    DOCUMENT.write_text(render_document())
    print(DOCUMENT)
