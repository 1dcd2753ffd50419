"""`results.load`: a collection for Python and notebooks is what `aaebench collect` and `report` make of the runs."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

import results
from harness.errors import InputError
from results.commands import collect_command
from results.notebook import Collection
from tests.results.runs import write_campaign

ROOT = Path(__file__).parents[2]
FIDS = {"aae": [10.0, 11.0, 10.5], "n_iter": [5.0, 5.5, 5.2]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_campaign(root, FIDS, pictures=True)
    write_campaign(root, FIDS, dataset="fashion_mnist")
    return root


@pytest.fixture(scope="module")
def collection(runs: Path) -> Collection:
    return results.load(runs)


def test_its_frames_are_the_tables_that_collect_writes(runs: Path, collection: Collection, tmp_path: Path) -> None:
    collect_command(runs, out=tmp_path)
    for name in ("runs", "summary", "comparisons", "claims", "collapse"):
        written = pd.read_parquet(tmp_path / f"{name}.parquet")
        frame = collection.frames[name]
        assert len(frame) == len(written) > 0
        numbers = [column for column in written if pd.api.types.is_float_dtype(written[column])]
        pd.testing.assert_frame_equal(frame[numbers].astype(float).reset_index(drop=True), written[numbers])
    assert collection.summary is collection.frames["summary"]


def test_each_variant_is_compared_with_the_aae(collection: Collection) -> None:
    compared = collection.compare().query("measure == 'fid' and sampler == 'prior'")
    assert list(compared["variant"]) == ["n_iter", "n_iter"]
    assert set(compared["verdict"]) == {"better"}


def test_two_collections_are_compared_and_what_is_missing_is_said(
    runs: Path, collection: Collection, tmp_path: Path
) -> None:
    write_campaign(tmp_path, {"aae": [20.0, 21.0, 20.5]})
    other = results.load(tmp_path)
    with pytest.warns(UserWarning, match="missing: .*n_iter"):
        compared = collection.compare(other)
    (fid,) = compared.query("measure == 'fid'").itertuples()
    assert (fid.mean_a, fid.mean_b, fid.verdict) == (10.5, 20.5, "worse")


def test_a_table_is_asked_for_by_the_papers_number_or_by_a_data_set(collection: Collection) -> None:
    fashion = collection.table(5)
    assert "n_iter" in set(fashion.frame["variant"])
    assert fashion.to_markdown() == collection.table("fashion_mnist").to_markdown() == str(fashion)
    assert "\\toprule" in fashion.to_latex()
    assert "<table>" in fashion._repr_html_()
    with pytest.raises(InputError, match="1 is no table of these runs; there are: table5-fashion_mnist, table-digits"):
        collection.table(1)


def test_a_table_of_several_settings_is_named_by_its_file(tmp_path: Path) -> None:
    write_campaign(tmp_path, FIDS)
    write_campaign(tmp_path, FIDS, prefix="other-", latent_dim=4, learning_rate=0.5)
    collection = results.load(tmp_path)
    other = "table-digits-learning_rate-0.5-latent_dim-4"
    with pytest.raises(InputError, match=re.escape(f"names several tables; there are: table-digits, {other}")):
        collection.table("digits")
    assert "latent_dim" in collection.table(other).to_markdown()


def test_a_figure_is_shown_once_and_leaves_the_callers_style_alone(collection: Collection) -> None:
    with mpl.rc_context({"font.size": 17}):
        before = dict(mpl.rcParams)
        drawing = collection.figure("fid")
        assert dict(mpl.rcParams) == before
    assert isinstance(drawing.figure, Figure)
    assert plt.get_fignums() == []
    assert drawing._repr_html_().startswith('<figure><img src="data:image/webp;base64,')
    assert "Fig. 9: FID over training" in drawing._repr_html_()


@pytest.mark.parametrize(
    ("name", "message"),
    [("fdi", "unknown figure 'fdi'; did you mean fid?"), ("budgets", "no figure budgets number 1 of these runs")],
)
def test_a_figure_that_is_not_there(collection: Collection, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        collection.figure(name)


def test_jupyter_shows_what_was_found_and_text_of_strangers_is_text(runs: Path, tmp_path: Path) -> None:
    shown = results.load(runs)._repr_html_()
    assert "12 runs of 2 variants on digits at 32 px and fashion_mnist at 32 px" in shown
    assert shown.count("<table>") == 2
    write_campaign(tmp_path, {"aae": [10.0, 11.0]}, options={"sigma": "<b>a</b>"})
    write_campaign(tmp_path, {"aae": [12.0, 13.0]}, options={"sigma": "linear"}, prefix="other-")
    strange = results.load(tmp_path)._repr_html_()
    assert "&lt;b&gt;a" in strange
    assert "<b>a" not in strange


def test_records_have_a_row_per_run_and_epoch(collection: Collection) -> None:
    assert len(collection.records) == 12 * 11
    assert collection.records.query("epoch == 4")["loss/reconstruction"].tolist() == [0.2] * 12


def test_there_is_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run folders"):
        results.load(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        results.load(tmp_path / "none")


def test_all_of_it_works_without_torch(runs: Path) -> None:
    code = f"""
import sys, results
assert "pandas" not in sys.modules, "importing it is instant"
collection = results.load({str(runs)!r})
collection.summary, collection.compare(), collection.table(5)._repr_html_(), collection._repr_html_()
collection.figure("fid")._repr_html_()
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
