"""One bad run folder stops nobody: a good one is damaged in hundreds of ways, and everybody who reads it ends well."""

import csv
import json
import os
import re
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from aaebench import app
from harness.commands import call
from harness.config import RunConfig, build_config
from harness.escape import printable
from harness.record import find_run_folders
from results.commands import print_problems, print_summary
from results.compare import compare, load_reported, print_comparison
from results.compute.analysis import analyse
from results.read.collect import Collection, collect
from results.read.protocols import choose_protocol
from results.show.figures import draw_all
from results.show.write import OURS, write_collection, writing
from slurm.status import read_status
from tests.results.runs import edit_evaluations, evaluation, histogram, write_campaign, write_picture, write_run

CASES = 300
MOST_ANALYSED = 8  # of the cases that can still be read: a second or two each. The others leave the good runs alone.
GOOD = {"aae": [30.0, 31.0, 29.5], "n_iter": [20.0, 21.0, 20.5]}

Path_ = tuple[str | int, ...]
BIG = 10**400
JUNK: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**63, -(2**63) - 1, BIG, 0.5, 1e308, -1e308, 1e-320, float("inf"), float("nan")),
    *("", "x", "\ud800", "$\\foo$", "<b>", "|a|b|", "\\input{x}", "=1+1", "\x1b[31m", "a\nb", "../../../x", "/tmp/x"),
    *("a" * 100_000, "2026-01-01", "é", "\u202egnp", [], {}, [[1]], ["x"], [None], {"x": {"y": [1]}}, [1e308] * 3),
    *(histogram(0, -4, 4), {"edges": [1, 0], "counts": [1]}, {"edges": [0, 1], "counts": [0]}, {"edges": [0, 0, 1]}),
    *({"edges": [0, 1, 2], "counts": [1, 2]}, {"edges": [0, 1, 2], "counts": [1e308, 1e308]}),
]
NAMES = [b"caf\xe9", b"\x1b[31mred", b"$\\foo$", b"=1+1", b"a\nb", b"x" * 255, b"-rf", b"..x", "ü".encode(), b"<b>"]
LINES = ["", "{", "[]", "1", "null", '{"epoch": 1}', '{"epoch": null, "images_seen": 1}', "\x00", "[" * 100_000]
FILES = ["config.json", "environment.json", "status.json", "evaluations/paper-1/protocol.json"]
RECORDS = ["records.jsonl", "evaluations/paper-1/records.jsonl"]


@dataclass(frozen=True)
class Damage:
    """`where`: a number that chooses a place, whatever there is."""

    kind: str
    file: str
    where: int
    value: Any


def damages() -> st.SearchStrategy[list[Damage]]:
    kinds = ["value", "value", "value", "value", "delete", "add", "line", "bytes", "cut", "pipe", "folder", "link"]
    kinds += ["name", "picture", "picture"]
    one = st.builds(
        Damage,
        kind=st.sampled_from(kinds),
        file=st.sampled_from([*FILES, *RECORDS, RECORDS[1]]),
        where=st.integers(0, 10_000),
        value=st.sampled_from(JUNK),
    )
    return st.lists(one, min_size=1, max_size=3)


def places(content: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Every place in a tree of JSON, but the many numbers of a histogram."""
    if path:
        yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))
    elif isinstance(content, list):
        for number, value in enumerate(content[:2]):
            yield from places(value, (*path, number))


def change(content: Any, damage: Damage) -> Any:
    """The content with one place replaced, removed, or added to."""
    found = [*places(content)]
    if not found:
        return damage.value
    *parents, last = found[damage.where % len(found)]
    place = content
    for key in parents:
        place = place[key]
    if damage.kind == "value":
        place[last] = damage.value
    elif damage.kind == "delete":
        del place[last]
    elif isinstance(place, dict):
        place[("posterior/x", "eval/fid", "loss/$x$", "\ud800", "a" * 1000)[damage.where % 5]] = damage.value
    return content


def inflict(folder: Path, damage: Damage) -> Path:
    """Damage a run folder. Returns: where it lies now."""
    file = folder / damage.file
    if damage.kind == "name":
        renamed = os.path.join(os.fsencode(folder.parent), NAMES[damage.where % len(NAMES)])  # noqa: PTH118
        folder.rename(os.fsdecode(renamed))
        return Path(os.fsdecode(renamed))
    if damage.kind == "picture":
        (folder / "samples" / "epoch-000010.png").write_bytes(PICTURES[damage.where % len(PICTURES)])
    elif not file.is_file():
        pass
    elif damage.kind in ("pipe", "folder", "link"):
        file.unlink()
        {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("/dev/zero")}[damage.kind](file)
    elif damage.kind in ("bytes", "cut"):
        content = file.read_bytes()
        place = damage.where % (len(content) + 1)
        file.write_bytes(content[:place] + (b"\xff\xfe" + content[place:] if damage.kind == "bytes" else b""))
    elif damage.file.endswith(".jsonl"):
        lines = file.read_text(errors="replace").splitlines()
        number = damage.where % max(1, len(lines))
        if damage.kind == "line":
            lines.insert(number, LINES[damage.where % len(LINES)])
        else:
            try:
                lines[number] = json.dumps(change(json.loads(lines[number]), damage))
            except (ValueError, IndexError, RecursionError):
                lines.append("{")
        file.write_text("\n".join(lines) + "\n")
    else:
        try:
            file.write_text(json.dumps(change(json.loads(file.read_bytes()), damage)))
        except (ValueError, RecursionError):
            file.write_text("{")
    return folder


def png(width: int, height: int) -> bytes:
    """A picture of one colour that says it is so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * min((width + 1) * height, 1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURES = [b"", b"no picture", png(1, 1), png(60_000, 60_000), png(256, 256)[:60], png(8, 8), png(256, 255)]


@dataclass(frozen=True)
class Sandbox:
    """`root`: what may be read; beside it lies `out`, which may be written to, and nothing else."""

    folder: Path
    config: RunConfig
    whole: Path
    good: Collection
    analysed: list[str]

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Six good runs, old enough for the index to know them, and a whole seventh to damage copies of."""
    folder = tmp_path_factory.mktemp("damaged")
    write_campaign(folder / "sandbox" / "runs" / "a", GOOD, pictures=True)
    config = build_config({"seed": 7, "epochs": 10, "variant": "n_iter", "options": {"n": 3}})
    parts = {"posterior/mu_histogram": histogram(0, -4, 4), "posterior/sigma_histogram": histogram(0.5, 0, 2)}
    floor = {"floor.train_test/fid": 1.0, "floor.train_test/kid": 0.001}
    whole = write_run(
        folder,
        config.run_id,
        {epoch: evaluation(fid) | parts | floor for epoch, fid in ((0, 99.0), (5, 40.0), (10, 22.0))},
        variant="n_iter",
        seed=7,
        options={"n": 3, "sigma": "linear"},
    )
    write_picture(whole, 10)
    long_ago = time.time() - 3600
    for file in (folder / "sandbox").rglob("*.json*"):
        os.utime(file, (long_ago, long_ago))
    return Sandbox(folder / "sandbox", config, whole.path, collect(folder / "sandbox" / "runs"), [])


def rows_of_the_good(runs: pd.DataFrame, good: Collection) -> pd.DataFrame:
    rows = runs[runs["run_id"].isin(good.runs["run_id"])]
    return rows.sort_values(["run_id", "epoch"]).reset_index(drop=True)


@settings(
    max_examples=CASES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # a smaller case than these three damages is not worth minutes
    derandomize=True,  # CI tries the same cases every time; without it hypothesis finds others
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(found=damages())
def test_a_damaged_folder_stops_nobody_and_the_good_runs_rows_stay(sandbox: Sandbox, found: list[Damage]) -> None:
    shutil.rmtree(sandbox.root / "b", ignore_errors=True)
    (sandbox.root / "b").mkdir()
    folder = sandbox.root / "b" / sandbox.config.run_id
    shutil.copytree(sandbox.whole, folder)
    for damage in found:
        folder = inflict(folder, damage)

    collection = collect(sandbox.root)
    rows, expected = (rows_of_the_good(each.runs, sandbox.good) for each in (collection, sandbox.good))
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False)  # integers are floats beside a missing one
    print_problems(collection.problems)
    read_status(sandbox.config, sandbox.root / "b", None)
    is_readable = len(collection.provenance) > len(sandbox.good.provenance)
    assert is_readable or len(collection.problems) == 1 or not [*find_run_folders(sandbox.root / "b")]
    label = " ".join(sorted({damage.kind for damage in found}))
    if is_readable and label not in sandbox.analysed and len(sandbox.analysed) < MOST_ANALYSED:
        sandbox.analysed.append(label)
        show(sandbox, collection)


def show(sandbox: Sandbox, collection: Collection) -> None:
    """What `collect`, `report` and `compare` do with a collection, but for the pixels of the figures."""
    chosen = choose_protocol(collection, None)
    analysis = analyse(chosen)
    with writing(sandbox.out, {}) as output:
        write_collection(analysis, output)
    print_summary(analysis.summary)
    print_comparison(compare(load_reported(sandbox.root, None), load_reported(sandbox.root / "a", None), 0.05), 0.05)
    assert len([*draw_all(chosen, analysis.frames)]) > 3
    plt.close("all")
    assert {path.name for path in sandbox.folder.iterdir()} == {"runs", "out"}
    written = [path.relative_to(sandbox.out).as_posix() for path in sandbox.out.rglob("*") if path.is_file()]
    assert all(OURS.fullmatch(name) or name in ("collection.json", ".lock") for name in written)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "../../../elsewhere"),
        ("dataset", "/tmp/elsewhere"),
        ("variant", "../x:Y"),
        ("options", {"../../x": 1}),
        ("options", {"n": "\x1b[2J"}),
        ("sweep", "a\nb"),
        ("seed", True),
        ("seed", 2**63),
        ("image_size", 32.0),
        ("learning_rate", float("inf")),
    ],
)
def test_what_a_user_could_not_have_asked_for_is_a_problem(sandbox: Sandbox, field: str, value: Any) -> None:
    shutil.rmtree(sandbox.root / "b", ignore_errors=True)
    shutil.copytree(sandbox.whole, sandbox.root / "b" / sandbox.config.run_id)
    file = sandbox.root / "b" / sandbox.config.run_id / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    (problem,) = collect(sandbox.root).problems.to_dict(orient="records")
    assert problem["state"] == "damaged"
    assert field in problem["reason"]


@pytest.mark.parametrize("score", [True, "1.0", [1.0], {}])
def test_a_score_that_is_no_number_is_a_problem_and_no_one(sandbox: Sandbox, score: Any) -> None:
    shutil.rmtree(sandbox.root / "b", ignore_errors=True)
    shutil.copytree(sandbox.whole, sandbox.root / "b" / sandbox.config.run_id)
    edit_evaluations(sandbox.root / "b" / sandbox.config.run_id, '"eval/fid": 22.0', f'"eval/fid": {json.dumps(score)}')
    (problem,) = collect(sandbox.root).problems.to_dict(orient="records")
    assert "eval/fid is" in problem["reason"]
    assert "in epoch 10" in problem["reason"]


class TestHostile:
    """A report of runs that are valid, and whose numbers, texts and pictures are as bad as valid ones come."""

    OPTIONS: ClassVar[dict[str, str]] = {
        "tex": "\\input{secret} $\\foo$ 50% a_b ^~",
        "markdown": "a|b **c** [d](e) <f>",
        "formula": "=1+1",
        "markup": "[red]x[/red]",
    }

    @pytest.fixture(scope="class")
    def out(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("hostile")
        runs = folder / "runs"
        write_campaign(runs, GOOD, pictures=True)
        for number, score in enumerate((float("inf"), 1e308, -1e308, 1e-320, float("nan"))):
            content = evaluation(1.0) | {"posterior/sigma_histogram": histogram(0.5, 0, 3 + number)}
            run = write_run(runs, f"score-{number}", {0: content, 10: content}, variant="vae", options={}, seed=number)
            edit_evaluations(run.path, '"eval/fid": 1.0', f'"eval/fid": {json.dumps(score)}')
            if number == 0:
                edit_evaluations(run.path, '"posterior/sigma_mean": 0.5', '"posterior/sigma_mean": Infinity')
        for number, picture in enumerate(PICTURES):
            run = write_run(runs, f"picture-{number}", {10: evaluation(5.0)}, variant="gan", options={}, seed=number)
            (run.samples / "epoch-000010.png").write_bytes(picture)
        for name, value in self.OPTIONS.items():
            write_run(runs, name, {10: evaluation(4.0)}, variant="own.module:Class", options={"n": value})
        details = {"reason": "=cmd\x1b[31m\nsecond line", "epoch": 1, "epochs": 10}
        write_run(runs, "failed", {}, state="failed", status=details, sweep="+sweep")
        for number in range(13):
            write_campaign(runs, {"aae": [3.0]}, prefix=f"{number}-", dataset=f"more{number}")
        assert invoke("report", runs, "--out", folder / "out") == 0
        return folder / "out"

    def test_the_report_says_what_its_figures_leave_out(self, out: Path) -> None:
        page = (out / "report.html").read_text()
        assert "values that are not finite or beyond 1e+30" in page
        assert "Shown: the first 12 of 14 settings." in page
        assert "histograms of other bins" in page
        assert page.count("<h3>") > 10

    def test_latex_shows_it_and_does_not_run_it(self, out: Path) -> None:
        text = (out / "tables" / "table-digits.tex").read_text().replace(r"\allowbreak{}", "")
        assert (
            r"n=\textbackslash{}input\{secret\} \$\textbackslash{}foo\$ 50\% a\_b \textasciicircum{}\textasciitilde{}"
            in text
        )

    def test_markdown_shows_it_in_one_cell(self, out: Path) -> None:
        lines = (out / "tables" / "table-digits.md").read_text().splitlines()
        (line,) = (line for line in lines if "[d" in line)
        assert r"a\|b \*\*c\*\* \[d\](e) \<f\>" in line
        unescaped = re.findall(r"(?<!\\)\|", line)
        assert len(unescaped) == len(re.findall(r"(?<!\\)\|", lines[2]))

    def test_a_spreadsheet_computes_nothing_of_it(self, out: Path) -> None:
        problems = pd.read_csv(out / "problems.csv")
        assert problems.loc[problems["run_id"] == "failed", "reason"].item().startswith("'=cmd")
        for file in out.rglob("*.csv"):
            with file.open(newline="") as lines:
                cells = [cell for row in csv.reader(lines) for cell in row]
            computed = [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
            assert all(is_number(cell) for cell in computed), file

    def test_a_terminal_obeys_nothing_of_it(self, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert (
            call(lambda: app(["collect", str(out.parent / "runs"), "--out", str(out)], result_action="return_value"))
            == 0
        )
        print_summary(pd.read_csv(out / "summary.csv"))
        captured = capfd.readouterr()
        assert r"=cmd\x1b[31m" in captured.err
        assert "\x1b" not in captured.err + captured.out
        assert "[red]x[/red]" in captured.out


def invoke(*arguments: object) -> int:
    return call(lambda: app([*map(str, arguments)], result_action="return_value"))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_what_a_terminal_obeys_is_shown() -> None:
    assert printable("a\x1b]0;title\x07\u202eb\udce9\n") == r"a\x1b]0;title\x07\u202eb\udce9\n"
    assert printable("a\nb\r", lines=True) == "a\nb\\r"
