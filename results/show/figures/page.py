"""A figure as a paper prints it: at the width of a line of LaTeX's article, in letters that can be read there."""

import math
import textwrap
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from results.show.figures.style import Drawing

INCH = 72.27  # of TeX's points
WIDTHS = {"page": 345.0 / INCH, "column": 229.5 / INCH}  # of a line of LaTeX's article in one column, and in two
LETTERS = 7.0  # pt, of all texts: a size below a paper's footnotes
NARROWEST = 1.5  # inches, of a panel with axes
HIGHEST = 2.6
MOST_HEIGHT = 7.0  # of a figure: the article's text is 7.6 high, and there is a caption
LINE = 0.16  # inches, of a legend
LABEL = 24  # letters of a line beside a panel


def fit_to_pages(drawing: Drawing) -> Iterator[str]:
    """Arrange the figure anew for each of WIDTHS, and yield its name: save it before asking for the next."""
    figure = drawing.figure
    for axis in [axis for axis in figure.axes if not axis.get_visible()]:
        axis.remove()
    panels, proportion = figure.axes, figure.get_figheight() / figure.get_figwidth()
    columns = {axis.get_subplotspec().colspan.start for axis in panels}  # pyright: ignore[reportOptionalMemberAccess]
    if drawing.panels == "turn":
        panels = sorted(panels, key=lambda axis: axis.get_subplotspec().colspan.start)  # pyright: ignore[reportOptionalMemberAccess]
    for name, width in WIDTHS.items():
        if drawing.panels == "keep":
            across, height = len(columns), width * proportion
        else:
            across = min(len(panels), 2 if drawing.panels == "turn" else int(width / NARROWEST))
            height = min(HIGHEST, 0.3 + 0.8 * width / across) * math.ceil(len(panels) / across)
        figure.set_layout_engine("constrained")
        _arrange(figure, panels, across)
        figure.set_size_inches(width, min(MOST_HEIGHT, height + LINE * _move_legend(figure, width)))
        for text in figure.findobj(Text):
            text.set_fontsize(LETTERS)  # pyright: ignore[reportAttributeAccessIssue]
        for axis in panels:
            _wrap(axis, width / across)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, however often it is saved
        yield name


def _arrange(figure: Figure, panels: Sequence[Axes], across: int) -> None:
    grid = figure.add_gridspec(math.ceil(len(panels) / across), across)
    for place, axis in enumerate(panels):
        axis.set_subplotspec(grid[place // across, place % across])
        if len(axis.get_xticks()) or len(axis.get_yticks()):
            axis.tick_params(labelbottom=True, labelleft=True)
        for line in (axis.xaxis, axis.yaxis):
            if isinstance(locator := line.get_major_locator(), MaxNLocator):
                locator.set_params(nbins=4)


def _wrap(axis: Axes, width: float) -> None:
    """Titles and labels in lines that the panel has room for. Args: width: of the panel, inches."""
    letters = _count_letters(width)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        most = letters if text is not axis.yaxis.label else LABEL
        text.set_text("\n".join(textwrap.fill(line, most) for line in text.get_text().splitlines()))


def _count_letters(width: float) -> int:
    """How many letters of text go into so many inches: one is some 0.55 of its height wide."""
    return max(8, int(width * 72 / (0.55 * LETTERS)))


def _move_legend(figure: Figure, width: float) -> int:
    """From the side to below the panels, in as many columns as its texts leave room for. Returns: its lines."""
    lines = 0
    for legend in list(figure.legends):
        handles = [handle for handle in legend.legend_handles if handle is not None]
        letters = _count_letters(width) - 6  # a handle, and the gaps
        labels = [textwrap.fill(text.get_text(), letters) for text in legend.get_texts()]
        legend.remove()
        if not labels:
            continue
        across = max(1, _count_letters(width) // (max(map(len, labels)) + 6))
        spacing = {"handlelength": 1.5, "handletextpad": 0.5, "columnspacing": 1.0}
        figure.legend(handles, labels, loc="outside lower center", ncols=across, fontsize=LETTERS, **spacing)
        lines += math.ceil(sum(label.count("\n") + 1 for label in labels) / across)
    return lines
