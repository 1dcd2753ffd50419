"""What a person sees: progress and logs on standard error, results on standard output. What is printed is whole."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDEST = 100_000  # characters; more than any table has
HARD_SPACE = "\N{NO-BREAK SPACE}"
Item = TypeVar("Item")


class Terminal(Console):
    """rich's console, which leaves to harness.commands what a closed pipe means; rich would end with status 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Terminal(stderr=True)


def say(text: str) -> None:
    """A message on standard error as it is: a terminal breaks long lines, and a log keeps them."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Bar(Progress):
    """How many of how many are done, and above it what is under way: whole, on as many lines as that takes."""

    def __init__(self, unit: str = "", time: ProgressColumn | None = None, disable: bool = False) -> None:
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn(unit), time or TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=disable)

    def get_renderables(self) -> Iterator[RenderableType]:
        for task in self.tasks:
            yield Text(task.description)
        yield self.make_tasks_table(self.tasks)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar that says how many have been used."""
    with Bar() as bar:
        yield from bar.track(items, total, description=description)


def build_output() -> Terminal:
    """Standard output, for tables; a pipe has no width."""
    output = Terminal(highlight=False, markup=False)
    if not output.is_terminal:
        output.width = WIDEST
    return output


def print_table(table: Table, title: str = "") -> None:
    """A table on standard output, and its title above it; nothing of it is cut, however narrow the terminal."""
    output = build_output()
    if title:
        output.print(title, soft_wrap=True)
    output.print(fit_table(table, output), soft_wrap=True)


def fit_table(table: Table, output: Console) -> RenderableType:
    """The table, or where it is wider than the terminal the lines of each row: `column: value`, never broken."""
    needed = Measurement.get(output, output.options.update(width=WIDEST), table).maximum
    return table if needed <= output.width else Text("\n".join(_list_rows(table, output.width)))


def _list_rows(table: Table, width: int) -> Iterator[str]:
    headers = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        parts = [f"{header}: {cell}" for header, cell in zip(headers, cells, strict=True) if cell]
        whole = "  ".join(part.replace(" ", HARD_SPACE) for part in parts)
        lines = textwrap.wrap(whole, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        yield "\n".join(lines).replace(HARD_SPACE, " ")
