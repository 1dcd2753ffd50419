"""Text from others in each language that it is written in: data there as well, never markup, formulas or commands.

HTML is escaped by the report's template. Standard library only.
"""

import re

# What a terminal obeys or reads backwards: control characters, line and paragraph separators, changes of direction.
_COMMANDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*{}\[\]<>#|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")  # n_iter is as it is
_LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def printable(text: str, *, lines: bool = False) -> str:
    """What a terminal would obey is shown instead, as `\\x1b`; so are bytes of names that are not UTF-8.

    Args: lines: whether the text may have several.
    """
    return _COMMANDS.sub(lambda found: found[0] if lines and found[0] == "\n" else ascii(found[0])[1:-1], text)


def escape_markdown(text: str) -> str:
    """One cell of a table, or one line, of GitHub-flavoured Markdown."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def escape_latex(text: str) -> str:
    """Text in a LaTeX document, outside formulas."""
    return "".join(_LATEX.get(character, character) for character in printable(text))


# Spreadsheets take what begins so for a formula, and one may run a program. RE2's syntax, which Arrow takes as well.
CSV_FORMULA = r"^([=+\-@\t\r])"


def escape_csv(text: str) -> str:
    """A text of a CSV file: an apostrophe before what a spreadsheet would compute."""
    return re.sub(CSV_FORMULA, r"'\1", text)
