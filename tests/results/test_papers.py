"""What a paper takes as it is: tables compiled by a real pdflatex (Debian's), and figures of its widths."""

import copy
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from pypdf import PdfReader

from aaebench import app
from harness.commands import call
from results.compute.analysis import Analysis, analyse
from results.read.collect import collect
from results.show.figures import draw_all, save_figure
from results.show.figures.page import fit_to_pages
from results.show.render import COLUMNS, render_latex, render_markdown
from tests.conftest import require
from tests.results.runs import evaluation, trained_on, write_campaign, write_run

SIX = ["aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]
WIDTHS = {"": 345.0, "twocolumn": 229.5}  # of a line of LaTeX's article, in its points


def run(*arguments: object) -> int:
    return call(lambda: app([*map(str, arguments)], result_action="return_value"))


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """All that makes tables wide: two sizes, scores of hundreds, options, own variants, flaws, marks, references."""
    root = tmp_path_factory.mktemp("runs")
    for size, batch in ((32, 1024), (64, 256)):
        fids = {name: [334.0 - 20 * place + 11 * seed for seed in range(3)] for place, name in enumerate(SIX)}
        place = {"dataset": "ffhq", "image_size": size, "batch_size": batch, "protocol_id": f"paper-{size}"}
        write_campaign(root, fids, **place)
    trained_on(4, root / "n_iter-ffhq-32-seed1")
    floor = {"floor.train_test/fid": 1.5, "floor.train_test/n_real": 100, "floor.train_test/n_fake": 50}
    for seed in range(3):
        scores = {key: value for key, value in evaluation(4.0 + seed).items() if key.startswith("eval/")}
        repeated = {key.replace("eval/", "eval.reconstruction/"): value for key, value in scores.items()}
        del repeated["eval.reconstruction/sampler"]
        place = {"seed": seed, "dataset": "fashion_mnist"}
        write_run(root, f"aae{seed}", {0: evaluation(90) | floor, 10: evaluation(31 + seed) | repeated}, **place)
        flawed = {10: evaluation(1e300 if seed else 20)}
        write_run(root, f"own{seed}", flawed, variant="mine.doubled:DoubledTheSecond", options={}, **place)
        for weight in (0.0001, 0.1):
            options = {"log_variance_penalty": weight, "sigma": "exp"}
            write_run(root, f"{weight}{seed}", {10: evaluation(22)}, variant="n_iter", options=options, **place)
    for rate in (3e-3, 1e-4):
        write_campaign(root, {"aae": [9.0, 9.5], "n_iter": [8.0, 8.2]}, prefix=f"{rate}", learning_rate=rate)
    setting = {"dataset": "mnist", "architecture": "conv", "mixed_precision": "bf16", "ema_decay": 0.999}
    write_campaign(root, {"aae": [9.0]}, **setting)
    return analyse(collect(root))


def compile_latex(folder: Path, options: str, body: str) -> tuple[list[str], str]:
    """The complaints of LaTeX about a document, and what it wrote. Fails unless it made a PDF."""
    require(
        shutil.which("pdflatex") is not None,
        "no pdflatex: apt-get install texlive-latex-base texlive-latex-recommended",
    )
    preamble = f"\\documentclass[{options}]{{article}}\n\\usepackage{{booktabs,graphicx,tabularx}}\n"
    (folder / "paper.tex").write_text(f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)  # after which labels are known
    said = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True, errors="replace").stdout
    return re.findall(r"(?:Overfull|LaTeX Warning).*", said), said


class TestTables:
    @pytest.mark.parametrize("options", WIDTHS)
    def test_every_table_fits_a_line_of_latexs_article(self, analysis: Analysis, tmp_path: Path, options: str) -> None:
        body = "\n".join(f"{render_latex(table)}\\typeout{{width=\\the\\linewidth}}" for table in analysis.tables)
        complaints, said = compile_latex(tmp_path, options, body)
        assert complaints == []
        assert said.count(f"width={WIDTHS[options]}pt") == len(analysis.tables) == 4

    def test_a_table_that_is_too_wide_would_be_found(self, analysis: Analysis, tmp_path: Path) -> None:
        complaints, _ = compile_latex(tmp_path, "twocolumn", render_latex(analysis.tables[0], list(COLUMNS)))
        assert any(complaint.startswith("Overfull") for complaint in complaints)

    def test_four_scores_and_the_seeds_fit_a_page(self, analysis: Analysis, tmp_path: Path) -> None:
        columns = ["n", "fid", "inception_score", "precision", "recall"]
        table = analysis.tables[0]
        for name in columns[3:]:
            table.rows[[f"{name}_mean", f"{name}_std"]] = [0.12345, 0.0123]
        complaints, _ = compile_latex(tmp_path, "", render_latex(table, columns))
        assert complaints == []

    def test_the_columns_are_the_papers_and_its_methods_are_called_as_there(self, analysis: Analysis) -> None:
        (line,) = [line for line in render_latex(analysis.tables[0]).splitlines() if line.startswith("method")]
        assert re.findall(r"[A-Za-z]+", re.sub(r"\\[a-z]+", "", line)) == ["method", "px", "n", "c", "FID", "c", "IS"]
        lines = render_markdown(analysis.tables[0]).splitlines()
        assert lines[2] == "| method | px | n | FID | IS |"
        assert [line.split(" | ")[0] for line in lines[4:10]] == [
            "| <u>AAE</u>",
            *(f"| {name}-IAAE" for name in ("latent-mapping", "n-iter", "KLD-loss", "feature", "equal-linear")),
        ]

    def test_decimal_points_stand_below_each_other(self, analysis: Analysis) -> None:
        """Each number ends its own right-aligned cell, with the same digits after its point in all rows."""
        lines = "".join(render_latex(table) for table in analysis.tables).splitlines()
        found = [line.removesuffix(r" \\").split(" & ")[-6:-3] for line in lines if line.count(r"& $\pm$ &") == 2]
        assert len(found) == 12 + 4 + 4, "ffhq, fashion_mnist and digits"
        for mean, sign, deviation in found:
            assert sign == r"$\pm$"
            assert re.search(r"\d\.\d\d\}?$", mean)
            assert re.search(r"\d\.\d\d(\}|\\rlap\{\$\^\\dagger\$\})?$", deviation), "a mark takes no room"


class TestFigures:
    """The figures of a campaign at the widths of a line of LaTeX's article."""

    @pytest.fixture(scope="module")
    def saved(self, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Figure]:
        """The PDFs, each with its figure as it was then."""
        root = tmp_path_factory.mktemp("figures")
        for dataset, seeds in (("mnist", 2), ("fashion_mnist", 2)):
            fids = {name: [40.0 - 3 * place + seed for seed in range(seeds)] for place, name in enumerate(SIX)}
            write_campaign(root / "runs", fids, dataset=dataset, pictures=True, protocol_id=f"paper-{dataset}")
        collection = collect(root / "runs")
        files = {}
        for drawing in draw_all(collection, analyse(collection).frames):
            for name in fit_to_pages(drawing):
                file = root / f"{drawing.stem}-{name}.pdf"
                save_figure(drawing.figure, file)
                files[file] = copy.deepcopy(drawing.figure)
        assert len(files) >= 2 * 9
        return files

    def test_each_is_as_wide_as_a_line_and_brings_its_fonts(self, saved: dict[Path, Figure]) -> None:
        for file in saved:
            (page,) = PdfReader(file).pages
            width = WIDTHS["twocolumn" if file.stem.endswith("-column") else ""]
            assert float(page.mediabox.width) == pytest.approx(width * 72 / 72.27, abs=0.01)
            resources: Any = page["/Resources"]
            for font in resources["/Font"].values():
                (described,) = font.get("/DescendantFonts", [font])
                assert "/FontFile2" in described.get_object()["/FontDescriptor"], "TrueType, as publishers ask"

    def test_no_text_is_cut_or_too_small_to_be_read(self, saved: dict[Path, Figure]) -> None:
        for file, figure in saved.items():
            used, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(used.min) > -0.02, file.name
            assert used.x1 < width + 0.02, file.name
            assert used.y1 < height + 0.02, file.name
            texts: Any = figure.findobj(Text)
            assert min(text.get_fontsize() for text in texts) >= 7, file.name

    @pytest.mark.parametrize(("options", "name"), [("", "page"), ("twocolumn", "column")])
    def test_each_stands_in_its_line_as_it_is(
        self, saved: dict[Path, Figure], tmp_path: Path, options: str, name: str
    ) -> None:
        body = [
            f"\\begin{{figure}}\\includegraphics{{{file}}}\\caption{{A.}}\\end{{figure}}\\clearpage"
            for file in saved
            if file.stem.endswith(name)
        ]
        complaints, _ = compile_latex(tmp_path, options, "\n".join(body))
        assert complaints == [], "neither too wide nor too high for a page"


class TestColumns:
    def collected(self, tmp_path: Path, command: str, *columns: str) -> Sequence[str]:
        write_campaign(tmp_path / "runs", {"aae": [30.0, 31.0], "n_iter": [25.0, 26.2]}, dataset="fashion_mnist")
        assert run(command, tmp_path / "runs", "--out", tmp_path / "out", "--columns", *columns) == 0
        table = tmp_path / "out" / "tables" / "table5-fashion_mnist"
        assert "\\begin{tabularx}" in table.with_suffix(".tex").read_text()
        assert len(pd.read_csv(table.with_suffix(".csv")).columns) > 30, "CSV has all"
        return table.with_suffix(".md").read_text().splitlines()

    @pytest.mark.parametrize("command", ["collect", "report"])
    def test_are_shown_in_the_order_in_which_they_are_named(self, tmp_path: Path, command: str) -> None:
        lines = self.collected(tmp_path, command, "published_fid", "fid", "kid")
        assert lines[2] == "| method | FID (published) | FID | KID x 1000 |"
        assert lines[4].startswith("| <u>AAE</u> | 131.259 |")
        assert lines[4].endswith("|  |"), "a column that was asked for stands, though nobody measured it"
        assert "another protocol, from one seed: not comparable" in lines[-1]

    def test_others_are_another_collection(self, tmp_path: Path) -> None:
        self.collected(tmp_path, "collect", "fid")
        assert self.collected(tmp_path, "collect", "recall")[2] == "| method | recall |"

    @pytest.mark.parametrize("command", ["collect", "report"])
    @pytest.mark.parametrize("columns", [["fit"], ["fid", "sigma"], []])
    def test_unknown_ones_are_refused_with_those_there_are(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, columns: list[str]
    ) -> None:
        write_campaign(tmp_path / "runs", {"aae": [3.0]})
        assert run(command, tmp_path / "runs", "--out", tmp_path / "out", "--columns", *columns) == 2
        error = capfd.readouterr().err
        assert columns == [] or repr(columns[-1]) in error
        assert columns == [] or f"those there are: {', '.join(COLUMNS)}" in error
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("command", ["collect", "report"])
    def test_the_help_names_all(self, capsys: pytest.CaptureFixture[str], command: str) -> None:
        assert run(command, "--help") == 0
        said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        assert f"in this order: {', '.join(COLUMNS)}. CSV" in said
