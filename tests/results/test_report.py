"""report.html as its reader has it: in a real browser (Debian's chromium), offline, from synthetic and real runs."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader

import results.show.report
from aaebench import app
from harness.commands import call
from harness.errors import InputError
from harness.record import RunFolder, find_run_folders
from results.compute.analysis import Analysis, analyse
from results.read.collect import collect
from results.read.protocols import choose_protocol
from results.show.report_tables import Cell, HtmlTable, Row, columns, say_once
from results.show.write import load_runs, write_collection, writing
from tests.conftest import require
from tests.results.runs import evaluation, score_again, write_campaign, write_evaluation, write_run

SIX = ["aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]


def report(*arguments: object) -> int:
    return call(lambda: app(["report", *map(str, arguments)], result_action="return_value"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    require(chromium is not None, "chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of six variants on two data sets, three seeds each, one run failed, one damaged."""
    root = tmp_path_factory.mktemp("report")
    runs, out = root / "runs", root / "out"
    for dataset, offset in (("fashion_mnist", 0), ("mnist", 5)):
        fids = {name: [40.0 - 3 * place + offset + seed for seed in range(3)] for place, name in enumerate(SIX)}
        write_campaign(runs, fids, dataset=dataset, pictures=True, protocol_id=f"paper-{dataset}")
    details = {"epoch": 1, "epochs": 10, "reason": "DivergedError: loss <b>is</b> nan"}
    write_run(
        runs, "failed", {0: evaluation(99, protocol_id="paper-mnist")}, state="failed", status=details, dataset="mnist"
    )
    (RunFolder(runs / "broken").path).mkdir()
    (runs / "broken" / "config.json").write_text("{")
    assert report(runs, "--out", out) == 0
    return out


class Reader:
    """A page with everything that it said and asked for."""

    def __init__(self, browser: Browser, file: Path, width: int = 1280, scheme: Any = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def column(self, table: str, number: int) -> list[str]:
        cells = self.page.locator(f"#{table} tbody tr:visible td:nth-child({number})")
        return [text.strip() for text in cells.all_inner_texts()]


@pytest.fixture
def reader(browser: Browser, written: Path) -> Iterator[Reader]:
    reader = Reader(browser, written / "report.html")
    yield reader
    assert reader.said == [], "no console messages"
    fetched = [url for url in reader.asked if not url.startswith(("file:", "data:"))]
    assert fetched == [], "nothing from the network"
    reader.context.close()


def test_the_summary_comes_first_in_sentences_made_of_the_data(reader: Reader) -> None:
    assert reader.page.locator("main section").first.get_attribute("id") == "summary"
    text = reader.page.locator("#summary").inner_text()
    assert "37 runs of 6 variants on fashion_mnist at 32 px and mnist at 32 px, with 3 seeds: 36 finished." in text
    assert (
        "Not in the averages: 1 damaged and 1 failed" in text or "Not in the averages: 1 failed and 1 damaged" in text
    )
    assert "equal_linear has the lowest FID, 26.00" in text


def test_tables_sort_by_number_both_ways_and_by_keyboard(reader: Reader) -> None:
    header = reader.page.locator("#table5-fashion_mnist th").nth(3).locator("button")
    header.click()
    scores = [float(text.split()[0]) for text in reader.column("table5-fashion_mnist", 4)]
    assert scores == sorted(scores)
    assert len(scores) == 6
    header.focus()
    reader.page.keyboard.press("Enter")
    scores = [float(text.split()[0]) for text in reader.column("table5-fashion_mnist", 4)]
    assert scores == sorted(scores, reverse=True)
    assert reader.page.locator("#table5-fashion_mnist th").nth(3).get_attribute("aria-sort") == "descending"


def test_every_cell_stands_under_its_header(reader: Reader) -> None:
    for table in reader.page.locator("figure.table table").all():
        headers = table.locator("th").count()
        assert table.locator("tbody tr").first.locator("td").count() == headers
    headers = reader.page.locator("#comparisons th").all_inner_texts()
    place = {header.strip(): number for number, header in enumerate(headers, start=1)}
    verdicts = reader.column("comparisons", place["verdict"])
    assert set(verdicts) <= {"better", "worse", "different", "equivalent", "undecided"}
    difference, own, baseline = (
        [float(text) for text in reader.column("comparisons", place[name])]
        for name in ("difference", "variant's", "AAE")
    )
    assert difference == pytest.approx([a - b for a, b in zip(own, baseline, strict=True)], abs=0.011)


def test_what_is_undecided_is_folded_away_and_the_keyboard_unfolds_it(reader: Reader) -> None:
    def verdicts(table: str) -> set[str]:
        headers = [header.strip() for header in reader.page.locator(f"#{table} th").all_inner_texts()]
        return set(reader.column(table, headers.index("verdict") + 1))

    assert "undecided" not in verdicts("comparisons")
    folded = reader.page.locator("details.fold")
    assert folded.locator("table").is_visible() is False
    folded.locator("summary").focus()
    reader.page.keyboard.press("Enter")
    assert verdicts("comparisons-undecided") == {"undecided"}
    assert "Undecided:" in folded.locator("summary").inner_text()


def test_a_slider_moves_the_samples_of_every_cell_together_by_keyboard_too(reader: Reader) -> None:
    grids = reader.page.locator(".grids").first
    slider, images = grids.locator("input[type=range]"), grids.locator("img:visible")

    def shown() -> set[str]:
        return {str(image.get_attribute("alt")).rpartition(" ")[2] for image in images.all()}

    assert shown() == {"10"}, "the last epoch, before anybody moves it and without scripts"
    slider.focus()
    reader.page.keyboard.press("ArrowLeft")
    assert shown() == {"5"}
    reader.page.keyboard.press("Home")
    assert shown() == {"0"}
    assert images.count() == len(SIX)
    assert grids.locator("output").inner_text() == "0"
    assert slider.get_attribute("aria-valuetext") == "epoch 0"
    tops = {round(image.bounding_box()["y"]) for image in images.all()[:3]}  # pyright: ignore[reportOptionalSubscript]
    assert len(tops) == 1, "side by side"


def test_what_all_rows_have_in_common_is_said_once(written: Path, reader: Reader) -> None:
    table = HtmlTable("x", "X", "Two.", columns(["variant", "data set"], []), [])
    rows = [Row([Cell(variant), Cell("digits 32 px")]) for variant in ("aae", "n_iter")]
    said = say_once(replace(table, rows=rows))
    assert said is not None
    assert [column["name"] for column in said.columns] == ["variant"]
    assert [[cell.text for cell in row.cells] for row in said.rows] == [["aae"], ["n_iter"]]
    assert said.caption == "Two. All on digits 32 px."
    assert "data set" in reader.page.locator("#all-runs thead").inner_text(), "two of them here"


def test_text_columns_sort_as_text(reader: Reader) -> None:
    reader.page.locator("#all-runs th").first.locator("button").click()
    names = reader.column("all-runs", 1)
    assert names == sorted(names)


def test_tables_filter_by_data_set_variant_and_text(reader: Reader) -> None:
    page = reader.page
    assert len(reader.column("all-runs", 1)) == 37
    page.select_option("#filter-dataset", "mnist")
    assert len(reader.column("all-runs", 1)) == 19
    assert reader.column("table5-fashion_mnist", 1) == []
    page.select_option("#filter-variant", "n_iter")
    assert set(reader.column("all-runs", 1)) == {"n_iter"}
    assert page.locator("#all-runs .count").inner_text() == "3 of 37 rows"
    page.fill("#filter-text", "seed2")
    assert len(reader.column("all-runs", 1)) == 1
    page.click("#filter-clear")
    assert len(reader.column("all-runs", 1)) == 37


def test_filters_outlive_a_refresh(reader: Reader) -> None:
    reader.page.select_option("#filter-variant", "aae")
    reader.page.reload()
    assert reader.page.locator("#filter-variant").input_value() == "aae"
    assert set(reader.column("all-runs", 1)) == {"aae"}
    reader.page.click("#filter-clear")


def test_every_figure_is_in_the_page_and_its_files_beside_it(reader: Reader, written: Path) -> None:
    images = reader.page.locator("figure.picture img")
    assert images.count() >= 7
    widths = images.evaluate_all("images => images.map(image => image.naturalWidth)")
    assert min(widths) > 300, "decoded, not broken"
    for link in reader.page.locator("figure.picture a").all():
        assert (written / str(link.get_attribute("href"))).stat().st_size > 1000
    titles = " ".join(reader.page.locator("figure.picture h3").all_inner_texts())
    for figure in ("Fig. 7", "Fig. 9", "Fig. 10", "Learning curves", "FID against noise share"):
        assert figure in titles


def test_all_claims_have_a_verdict_and_numbers(reader: Reader) -> None:
    badges = reader.page.locator(".claim .badge").all_inner_texts()
    assert len(badges) == 13
    assert set(badges) <= {"supported", "refuted", "undecided", "not enough data"}
    assert "refuted" in badges, "on both data sets another variant beats n_iter (C4)"


def test_failures_are_listed_with_their_reason_as_text_not_as_markup(reader: Reader) -> None:
    reasons = dict(zip(reader.column("problems", 1), reader.column("problems", 3), strict=True))
    assert reasons["failed"] == "DivergedError: loss <b>is</b> nan (at epoch 1 of 10)"
    assert "config.json" in reasons["broken"]


def test_every_csv_is_linked_and_there(reader: Reader, written: Path) -> None:
    names = [str(link.get_attribute("href")) for link in reader.page.locator(".files a").all()]
    assert {"runs.csv", "summary.csv", "claims.csv", "collapse.csv", "tables/table5-fashion_mnist.tex"} <= set(names)
    assert all((written / name).is_file() for name in names)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_wide_and_narrow_screens_light_and_dark(
    browser: Browser, written: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    reader = Reader(browser, written / "report.html", width, scheme)
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    picture = tmp_path / "page.png"
    reader.page.screenshot(path=picture)
    brightness = np.asarray(Image.open(picture).convert("L")).mean()
    assert brightness > 200 if scheme == "light" else brightness < 80
    reader.page.click("#theme")
    reader.page.screenshot(path=picture)
    switched = np.asarray(Image.open(picture).convert("L")).mean()
    assert switched < 80 if scheme == "light" else switched > 200
    assert reader.said == []
    reader.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_axe_finds_nothing_that_keeps_screen_readers_or_the_keyboard_out(
    browser: Browser, written: Path, width: int, scheme: str
) -> None:
    reader = Reader(browser, written / "report.html", width, scheme)
    reader.page.evaluate("for (const folded of document.querySelectorAll('details')) folded.open = true")
    found = Axe().run(reader.page).response
    reader.context.close()
    assert len(found["passes"]) > 20, "it has looked"
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []


def test_narrow_screens_have_figures_whose_letters_can_be_read(browser: Browser, written: Path) -> None:
    sources = {}
    for width in (390, 1280):
        reader = Reader(browser, written / "report.html", width)
        image = reader.page.locator("figure.picture img").first
        sources[width] = image.evaluate("image => image.currentSrc")
        shown = image.evaluate("image => image.clientWidth / image.naturalWidth")
        assert image.evaluate("image => image.clientWidth") <= width
        if width == 390:
            pixels = 7 / 72 * 200  # the letters' height in the picture
            assert shown * pixels > 9
        reader.context.close()
    assert sources[390] != sources[1280]


def test_it_prints_to_a_pdf_with_nothing_cut_off_or_folded_away(
    browser: Browser, written: Path, tmp_path: Path
) -> None:
    reader = Reader(browser, written / "report.html", 1032, "dark")  # A4 across, less its margins, is 1032 px wide
    reader.page.emulate_media(media="print")
    overflowing = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth).length"
    assert reader.page.evaluate(overflowing) == 0
    assert reader.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    reader.page.emulate_media()
    reader.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    reader.context.close()
    pages = [" ".join(page.extract_text().split()) for page in PdfReader(tmp_path / "report.pdf").pages]
    assert "equal_linear has the lowest FID, 26.00" in pages[0]
    text = " ".join(pages)
    assert text.count("undecided") > 10, "unfolded"
    assert "equal_linear-mnist-32-seed2" in text.replace(" ", ""), "the last column of the widest table"


def test_the_keyboard_reaches_the_filters_the_tables_and_the_headers(reader: Reader) -> None:
    reached = set()
    for _ in range(60):
        reader.page.keyboard.press("Tab")
        tag, name = reader.page.evaluate("[document.activeElement.tagName, document.activeElement.className]")
        reached.add(f"{tag}.{name}")
    assert {"A.skip", "SELECT.", "INPUT.", "BUTTON.", "DIV.scroll"} <= reached


def test_names_from_records_cannot_become_markup(browser: Browser, tmp_path: Path) -> None:
    markup = "<img src=x onerror=alert(1)>"
    write_run(tmp_path / "runs", "x", {10: evaluation(3)}, variant="own", options={"sigma": markup})
    write_run(tmp_path / "runs", "y", {10: evaluation(3)}, variant="own", options={"sigma": "plain"})
    assert report(tmp_path / "runs", "--out", tmp_path / "out") == 0
    reader = Reader(browser, tmp_path / "out" / "report.html")
    assert markup in reader.page.locator("#all-runs").inner_text()
    assert reader.page.locator("img[src=x]").count() == 0
    assert reader.said == []
    reader.context.close()


def test_a_report_before_anything_was_evaluated_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "new", {}, state="queued")
    assert report(tmp_path / "runs", "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No run has finished." in page
    assert "There is nothing to draw yet." in page
    assert "queued" in capfd.readouterr().err


def test_an_old_reports_figures_go_with_it_and_the_users_own_files_stay(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    own = [out / "figures" / "photo.pdf", out / "figures" / "figure8-old.png", out / "tables" / "table_notes.tex"]
    for file in own:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    write_campaign(runs, {"aae": [3.0]})
    write_campaign(runs, {"aae": [4.0]}, dataset="mnist", prefix="other-")
    assert report(runs, "--out", out) == 0
    old = [out / "figures" / "losses-mnist-32px.png", out / "tables" / "table3-mnist.tex"]
    assert all(file.is_file() for file in old)
    shutil.rmtree(runs / "other-aae-mnist-32-seed0")
    assert report(runs, "--out", out) == 0
    assert not any(file.exists() for file in old)
    assert [file.read_text() for file in own] == ["mine"] * 3


def test_what_a_strangers_manifest_lists_stays_where_it_is(tmp_path: Path) -> None:
    write_campaign(tmp_path / "runs", {"aae": [3.0]})
    (tmp_path / "out").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    listed = {"../thesis.tex": 4, "notes.txt": 4, str(tmp_path / "thesis.tex"): 4}
    (tmp_path / "out" / "collection.json").write_text(json.dumps({"files": listed}))
    assert report(tmp_path / "runs", "--out", tmp_path / "out") == 0
    assert (tmp_path / "thesis.tex").read_text() == (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_report_that_failed_leaves_no_collection_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_campaign(runs, {"aae": [3.0]})
    assert report(runs, "--out", out) == 0

    def fill_the_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(results.show.report, "save_figure", fill_the_disk)
        assert report(runs, "--out", out) == 2
    assert "choose another folder with --out" in capfd.readouterr().err
    assert json.loads((out / "collection.json").read_text())["unfinished"]
    with pytest.raises(InputError, match="not written to its end"):
        load_runs(out)
    figures = {file.name for file in (out / "figures").iterdir()}
    assert report(runs, "--out", out) == 0
    assert {file.name for file in (out / "figures").iterdir()} == figures
    assert len(load_runs(out)) == 3


def test_collecting_into_a_reports_folder_keeps_the_report(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_campaign(runs, {"aae": [3.0]})
    assert report(runs, "--out", out) == 0
    write_campaign(runs, {"n_iter": [3.0]})
    assert call(lambda: app(["collect", str(runs), "--out", str(out)], result_action="return_value")) == 0
    assert (out / "report.html").is_file()
    assert (out / "figures" / "figure9-fid.png").is_file()
    assert len(load_runs(out)) == 6


def test_two_collectors_at_once_into_one_folder_both_succeed(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_campaign(runs, {"aae": [3.0, 4.0], "n_iter": [3.0, 4.0]})
    command = [sys.executable, "-m", "aaebench", "collect", str(runs), "--out", str(out), "--protocol", "paper"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        analysis = analyse(choose_protocol(collect(runs), None))
        for _ in pool.map(lambda number: write_numbered(analysis, out, number), range(5)):
            pass
    assert [(process.communicate()[1], process.returncode)[1] for process in processes] == [0, 0]
    assert len(load_runs(out)) == len(pd.read_csv(out / "runs.csv")) == 12
    assert not [file for file in out.rglob("*") if file.name.startswith(".writing")]


def write_numbered(analysis: Analysis, out: Path, number: int) -> None:
    with writing(out, {"number": number}) as output:
        write_collection(analysis, output)


class TestBadInput:
    def test_no_runs(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert report(tmp_path, "--out", tmp_path / "out") == 2
        assert "holds no run folders" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_mixed_protocols(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "runs", {"aae": [3.0]})
        score_again(next(find_run_folders(tmp_path / "runs")), "paper", "paper-2", n_fake=50)
        assert report(tmp_path / "runs", "--out", tmp_path / "out", "--protocol", "paper") == 2
        assert "choose one with --protocol" in capfd.readouterr().err
        assert not (tmp_path / "out").exists()
        assert report(tmp_path / "runs", "--out", tmp_path / "out") == 0
        assert "also there: paper-2" in capfd.readouterr().err
        assert report(tmp_path / "runs", "--out", tmp_path / "out", "--protocol", "paper-2") == 0

    def test_a_strange_interval(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        write_campaign(tmp_path / "runs", {"aae": [3.0]})
        assert report(tmp_path / "runs", "--out", tmp_path / "out", "--watch", "--every", 0) == 2
        assert "--every" in capfd.readouterr().err


def test_watch_follows_a_sweep_to_its_end(tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_campaign(runs, {"aae": [3.0]})
    late = write_run(runs, "late", {0: evaluation(9)}, state="running", seed=1, status={"epoch": 1, "epochs": 10})
    command = [sys.executable, "-m", "aaebench", "report", str(runs), "--out", str(out), "--watch", "--every", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(90, process.kill)
    killer.start()
    while not (out / "report.html").exists() and process.poll() is None:
        time.sleep(0.1)
    assert re.search(r'http-equiv="refresh" content="1"', (out / "report.html").read_text())
    late.append_record({"epoch": 11, "images_seen": 1100})
    write_evaluation(late, 11, evaluation(4))
    late.write_status("done", epoch=11, epochs=10)
    stdout, stderr = process.communicate()
    killer.cancel()
    assert process.returncode == 0, stderr
    assert stdout.splitlines()[-1] == str(out / "report.html")
    page = (out / "report.html").read_text()
    assert 'http-equiv="refresh"' not in page
    assert "with 2 seeds: 2 finished." in page
