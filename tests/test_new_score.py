"""A new score is one function and one row of the table of measures: everything else follows."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.harness.test_train import ROOT, SHORT

ADD_ONE = """
import sys
from harness import measures
row = measures.Measure(
    "sharpness", "eval", "sharpness", "of edges, higher is better",
    better="higher", digits=1, compared=True, places=("table", "terminal", "report", "card"),
)
measures._ROWS.append(row)
measures.MEASURES[row.name] = row

from harness.evaluation.reference import Reference
scores = Reference.score
Reference.score = lambda self, fake, device: {**scores(self, fake, device), "sharpness": fake.n / 100}

from aaebench import app
from harness.commands import call
out, *arguments = sys.argv[1:]
report = ["report", f"{out}/runs", "--out", f"{out}/report", "--columns", "fid", "sharpness"]
for command in (["run", *arguments, "--out", f"{out}/runs"], report):
    assert call(lambda: app(command, result_action="return_value")) == 0
"""


def test_it_stands_in_every_table_and_in_the_report(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ADD_ONE, str(tmp_path), *SHORT, "--epochs", "1"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    runs, summary = (pd.read_csv(tmp_path / "report" / f"{name}.csv") for name in ("runs", "summary"))
    assert set(runs["sharpness"]) == {3.2}
    assert set(summary["sharpness_mean"]) == {3.2}
    (table,) = (tmp_path / "report" / "tables").glob("*.md")
    assert "| sharpness |" in table.read_text().replace(" ---: ", "")
    assert "sharpness" in (tmp_path / "report" / "report.html").read_text()
