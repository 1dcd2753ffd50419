"""A collection for Python and notebooks: what `results.load` gives. Never imports torch."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from harness.errors import InputError, unknown
from results.commands import find_runs
from results.compare import compare
from results.compute.analysis import Analysis, analyse
from results.compute.looks import load_looks
from results.compute.statistics import require_margin
from results.compute.summary import EpochRule
from results.compute.tables import NUMBERS, PaperTable
from results.read.collect import Collection as ReadCollection
from results.read.collect import collect
from results.read.protocols import choose_protocol
from results.show.render import render_latex, render_markdown
from results.show.report_tables import HtmlTable, build_paper_table
from results.show.sentences import describe

DIFFERENCE = 0.05  # a fraction of A's mean, beyond which a worse score is a regression


def load_collection(runs: Path, protocol: str | None, epoch: EpochRule, margin: float) -> "Collection":
    """See results.load."""
    require_margin(margin)
    # In this process: others would import the caller's script again, as multiprocessing does.
    every_reading = collect(runs, find_runs(runs))
    read = choose_protocol(every_reading, protocol, required=False)
    return Collection(read, analyse(read, epoch, margin, load_looks(runs), every_reading=every_reading))


@dataclass(frozen=True, repr=False)
class Table:
    """One of the paper's tables, of one's own runs. `frame`: a row per variant and reference, results/SCHEMA.md."""

    paper_table: PaperTable

    @property
    def frame(self) -> pd.DataFrame:
        return self.paper_table.rows

    def to_markdown(self) -> str:
        return render_markdown(self.paper_table)

    def to_latex(self) -> str:
        """The preamble needs `\\usepackage{booktabs,tabularx}`."""
        return render_latex(self.paper_table)

    def __repr__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return _render([build_paper_table(self.paper_table)])


@dataclass(frozen=True, repr=False)
class Collection:
    """Run folders, and everything that is computed of them. Its tables are tidy DataFrames, whose columns are explained
    in results/SCHEMA.md.

    `read`: as results.read.collect has it. `analysis`: what the CSVs and the report are made of.
    """

    read: ReadCollection
    analysis: Analysis

    @property
    def runs(self) -> pd.DataFrame:
        """A row per run, evaluated epoch, reading, sampler and sampling seed: configuration, scores, posterior."""
        return self.read.runs

    @property
    def summary(self) -> pd.DataFrame:
        """A row per cell (all that changes the numbers, but the seed): mean, std and 95 % interval over its seeds."""
        return self.analysis.summary

    @property
    def claims(self) -> pd.DataFrame:
        """A row per claim of the paper, and its verdict."""
        return self.analysis.frames["claims"]

    @property
    def collapse(self) -> pd.DataFrame:
        """A row per run and evaluation: the posterior's diagnostics."""
        return self.analysis.frames["collapse"]

    @property
    def problems(self) -> pd.DataFrame:
        """A row per folder that is unfinished, failed or damaged, or a run far off its cell's others."""
        return self.analysis.frames["problems"]

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Every table that `aaebench collect` writes, by the name of its file."""
        return {"runs": self.runs, **self.analysis.frames}

    @cached_property
    def records(self) -> pd.DataFrame:
        """A row per run and epoch: loss/<phase>, time/images_per_second."""
        rows = [{"run_id": run_id, **line} for run_id in self.read.paths for line in self.read.read_records(run_id)]
        return pd.DataFrame(rows, columns=None if rows else ["run_id", "epoch", "images_seen"])

    def compare(self, other: "Collection | None" = None) -> pd.DataFrame:
        """Each variant against the AAE of its setting; or this collection (A) against another (B): differences, their
        95 % intervals, p after Holm's correction, verdicts.

        Warns of what one of the two lacks. Raises: InputError if they share no cell, or were scored otherwise.
        """
        if other is None:
            return self.analysis.comparisons
        found = compare(self.analysis.reported, other.analysis.reported, DIFFERENCE)
        if found.missing:
            warnings.warn(f"missing: {'; '.join(found.missing)}", stacklevel=2)
        return found.table

    @property
    def tables(self) -> list[Table]:
        """A table per data set and setting."""
        return [Table(table) for table in self.analysis.tables]

    def table(self, which: int | str) -> Table:
        """By the paper's number (1 to 5), a data set, or the stem of its file where a data set has several.

        Raises: InputError if there is none, or there are several, naming those that there are.
        """
        found = [
            table
            for table in self.analysis.tables
            if which in (table.stem, dataset := table.rows["dataset"].iloc[0], NUMBERS.get(dataset))
        ]
        if len(found) == 1:
            return Table(found[0])
        stems = [table.stem for table in found or self.analysis.tables]
        reason = "names several tables" if found else "is no table of these runs"
        raise InputError(f"{which!r} {reason}; there are: {', '.join(stems) or 'none, as no run has finished'}")

    def figure(self, name: str, number: int = 1) -> Any:
        """A figure of the report: fid, sigma, seeds, samples, pair, posterior, noise_share, losses, forest, dose,
        budgets, options; the `number`-th of its kind, where there are several (a setting each, or a run).

        Returns: a Drawing, which Jupyter shows: `title`, `caption`, and matplotlib's `figure`.
        Raises: InputError for another name, or where there are no data to draw.
        """
        import matplotlib as mpl  # noqa: PLC0415 (half a second)
        from matplotlib import pyplot as plt  # noqa: PLC0415

        with mpl.rc_context():  # the caller's own figures look as before
            from results.show.figures import FIGURES, STYLE  # noqa: PLC0415

            if name not in FIGURES:
                raise InputError(unknown("figure", name, FIGURES))
            mpl.rcParams.update(STYLE)
            drawn = 0
            for drawn, drawing in enumerate(FIGURES[name](self.read, self.analysis.frames), start=1):
                if drawn == number:
                    plt.close(drawing.figure)  # or a notebook would show it a second time
                    return drawing
        raise InputError(f"there is no figure {name} number {number} of these runs; there are {drawn}")

    def __repr__(self) -> str:
        return "\n".join(describe(self.analysis))

    def _repr_html_(self) -> str:
        return _render([build_paper_table(table) for table in self.analysis.tables], describe(self.analysis))


def _render(tables: list[HtmlTable], sentences: list[str] | None = None) -> str:
    source = (files("results") / "show" / "page" / "notebook.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(tables=tables, sentences=sentences or [])
