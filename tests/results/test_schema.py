"""The documented schema is the written one, in CSV and in Parquet, for pandas, DuckDB and whoever comes."""

from pathlib import Path

import duckdb
import pandas as pd
import pytest
from pyarrow import parquet

from aaebench import app
from harness.commands import call
from harness.record import RunFolder
from results.compute.analysis import FILES
from results.compute.tables import TABLE
from results.read.collect import collect
from results.read.schema import ARROW, SCHEMA_VERSION
from results.show.schema_document import DOCUMENT, render_document
from tests.results.runs import edit_evaluations, evaluation, write_campaign, write_run


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("schema")
    write_campaign(root / "runs", {"aae": [3.0, 4.0], "n_iter": [2.0, 2.5]}, dataset="fashion_mnist")
    folder = write_run(root / "runs", "not-finite", {10: evaluation(0.0)}, seed=5, dataset="mnist")
    edit_evaluations(folder.path, '"eval/fid": 0.0', '"eval/fid": NaN')
    assert (
        call(lambda: app(["collect", str(root / "runs"), "--out", str(root / "out")], result_action="return_value"))
        == 0
    )
    return root / "out"


def test_the_document_is_what_the_code_writes() -> None:
    assert DOCUMENT.read_text() == render_document(), "write it anew: python -m results.show.schema_document"


@pytest.mark.parametrize("name", [*FILES, "tables/table5-fashion_mnist"])
def test_every_column_is_documented_and_has_its_type(tables: Path, name: str) -> None:
    columns = FILES[name][0] if name in FILES else TABLE
    names = [column.name for column in columns]
    assert len(names) == len(set(names))
    assert list(pd.read_csv(tables / f"{name}.csv").columns) == names
    schema = parquet.read_schema(tables / f"{name}.parquet")
    assert schema.names == names
    assert schema.types == [ARROW[column.type] for column in columns]
    assert schema.metadata[b"aaebench_schema_version"] == str(SCHEMA_VERSION).encode()


def test_csv_and_parquet_hold_the_same(tables: Path) -> None:
    for name in FILES:
        from_csv = pd.read_csv(tables / f"{name}.csv")
        from_parquet = parquet.read_table(tables / f"{name}.parquet").to_pandas()
        pd.testing.assert_frame_equal(from_csv, from_parquet, check_dtype=False, check_exact=False, rtol=1e-12)


def test_a_nan_score_is_no_missing_one(tables: Path) -> None:
    fid = parquet.read_table(tables / "runs.parquet", filters=[("run_id", "=", "not-finite")])
    assert fid["fid"].null_count == 0
    assert str(fid["fid"][0].as_py()) == "nan"
    assert fid["kid"].null_count == len(fid)
    line = next(line for line in (tables / "runs.csv").read_text().splitlines() if line.startswith('"not-finite"'))
    assert ",nan," in line


def test_duckdb_reads_both(tables: Path) -> None:
    query = "select variant, avg(fid) from '{}' where epoch = 10 and dataset = 'fashion_mnist' group by 1 order by 1"
    expected = [("aae", 3.5), ("n_iter", 2.25)]
    for name in ("runs.parquet", "runs.csv"):
        assert duckdb.execute(query.format(tables / name)).fetchall() == expected


def test_newer_run_folders_are_refused_and_not_guessed_at(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "newer", {10: evaluation(1)})
    folder.write_environment({"run_id": "newer", "record_version": 9})
    problem = collect(tmp_path).problems.iloc[0]
    assert problem["state"] == "damaged"
    assert "version 9" in problem["reason"]


def test_the_version_is_raised_when_the_meaning_of_a_column_changes() -> None:
    """The columns that scripts outside rely on (DESIGN.md): they may not go without a new version."""
    contract = """run_id sweep variant dataset image_size seed mixed_precision epoch images_seen protocol protocol_id
    extractor sampler n_real n_fake fid inception_score kid precision recall density coverage sigma_mean sigma_std
    mu_mean mu_std noise_share active_units prior_kl collapse interruptions git_commit"""
    assert set(contract.split()) <= {column.name for column in FILES["runs"][0]}
    assert SCHEMA_VERSION == 2


def test_a_collection_is_not_rewritten_when_nothing_changed(tmp_path: Path) -> None:
    write_campaign(tmp_path / "runs", {"aae": [3.0, 4.0]})
    command = ["collect", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert call(lambda: app(command, result_action="return_value")) == 0
    before = (tmp_path / "out" / "runs.csv").stat().st_ino
    assert call(lambda: app(command, result_action="return_value")) == 0
    assert (tmp_path / "out" / "runs.csv").stat().st_ino == before
    (tmp_path / "out" / "summary.csv").write_text("")
    assert call(lambda: app(command, result_action="return_value")) == 0
    assert len(pd.read_csv(tmp_path / "out" / "summary.csv")) == 1, "what somebody damaged is written again"
    RunFolder(tmp_path / "runs" / "new").ask_for({})
    assert call(lambda: app(command, result_action="return_value")) == 0
    assert len(pd.read_csv(tmp_path / "out" / "problems.csv")) == 1
