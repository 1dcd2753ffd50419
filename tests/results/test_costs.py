"""What runs, cells and sweeps cost: GPU-hours, and energy where it is known."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aaebench import app
from harness.commands import call
from results.compute.analysis import Analysis, analyse
from results.read.collect import collect
from results.show.report import describe_provenance
from results.show.report_tables import HtmlTable, build_cost_tables
from tests.results.runs import evaluation, write_run

TIMED = {"time/epoch_seconds": 900.0, "time/images_per_second": 1.0}


def write_timed(root: Path, seed: int, energy: float | None, **config: Any) -> None:
    """Ten epochs of a quarter of an hour each, on two GPUs."""
    name = f"run-{config.get('variant', 'aae')}-{seed}"
    status = {"epoch": 10, "epochs": 10} | ({} if energy is None else {"energy_kwh": energy})
    folder = write_run(root, name, {10: evaluation(30.0 + seed)}, status=status, seed=seed, **config)
    folder.write_environment({"run_id": name, "num_processes": 2, "device": "cuda"})
    folder.keep_records(0)
    for epoch in range(1, 11):
        folder.append_record({"epoch": epoch, "images_seen": epoch, **TIMED})


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    write_timed(tmp_path, 0, 1.5, sweep="first")
    write_timed(tmp_path, 1, 2.0, sweep="first")
    write_timed(tmp_path, 0, 4.0, sweep="second", variant="n_iter")
    write_timed(tmp_path, 1, None, sweep="second", variant="n_iter")
    return analyse(collect(tmp_path))


def read(table: HtmlTable) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_a_run_took_its_hours_on_each_of_its_gpus(tmp_path: Path, analysis: Analysis) -> None:
    out = tmp_path / "out"
    assert call(lambda: app(["collect", str(tmp_path), "--out", str(out)], result_action="return_value")) == 0
    table = pd.read_csv(out / "provenance.csv").set_index("run_id")
    assert table["gpu_hours"].tolist() == pytest.approx([5.0] * 4)
    assert table["energy_kwh"].dropna().to_dict() == {"run-aae-0": 1.5, "run-aae-1": 2.0, "run-n_iter-0": 4.0}
    assert table.groupby("sweep")["gpu_hours"].sum().to_dict() == {"first": 10.0, "second": 10.0}


def test_cells_and_sweeps_have_the_sums_and_energy_only_where_every_run_knows_it(analysis: Analysis) -> None:
    cells, sweeps = build_cost_tables(analysis)
    assert read(cells) == [
        ["aae", "digits 32 px", "10", "2", "5.00", "0.00", "10.00", "3.500"],
        ["n_iter", "digits 32 px", "10", "2", "5.00", "0.00", "10.00", ""],
    ]
    assert read(sweeps) == [
        ["first", "2", "5.00", "0.00", "10.00", "3.500"],
        ["second", "2", "5.00", "0.00", "10.00", ""],
    ]
    assert dict(describe_provenance(analysis))["energy"] == "7.500 kWh in 3 of 4 runs"


def test_what_is_trained_otherwise_is_a_cell_of_its_own(tmp_path: Path) -> None:
    write_timed(tmp_path / "a", 0, 1.0)
    write_timed(tmp_path / "b", 1, 2.0, learning_rate=3e-3)
    cells, _ = build_cost_tables(analyse(collect(tmp_path)))
    assert [(row[1], row[-1]) for row in read(cells)] == [
        ("digits 32 px", "1.000"),
        ("digits 32 px (learning_rate=0.003)", "2.000"),
    ]


def test_runs_without_a_sweep_have_a_row(tmp_path: Path) -> None:
    write_timed(tmp_path, 0, None, sweep="")
    assert read(build_cost_tables(analyse(collect(tmp_path)))[1])[0][0] == "no sweep"
