"""One bad run folder stops nobody: a good one is damaged in hundreds of ways, and everybody who reads it ends well."""

import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt

from harness.config import RunConfig, build_config
from results.commands import print_problems, print_summary
from results.compare import compare, load_reported, print_comparison
from results.compute.analysis import analyse
from results.read.collect import Collection, collect
from results.read.protocols import choose_protocol
from results.show.figures import draw_all
from results.show.write import OURS, write_collection, writing
from slurm.status import read_status
from tests.results.runs import evaluation, histogram, write_campaign, write_picture, write_run

CASES = 300  # a fifth of a second each
MOST_DRAWN = 12  # cases whose figures are drawn too, of those that can still be read: four seconds each
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
    drawn: list[int]

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
    pd.testing.assert_frame_equal(
        rows_of_the_good(collection.runs, sandbox.good), rows_of_the_good(sandbox.good.runs, sandbox.good)
    )
    print_problems(collection.problems)
    analysis = analyse(choose_protocol(collection, None))
    with writing(sandbox.out, {}) as output:
        write_collection(analysis, output)
    print_summary(analysis.summary)
    print_comparison(compare(load_reported(sandbox.root, None), load_reported(sandbox.root / "a", None), 0.05), 0.05)
    read_status(sandbox.config, sandbox.root / "b", None)
    readable = len(collection.provenance) > len(sandbox.good.provenance)
    if readable and len(sandbox.drawn) < MOST_DRAWN:
        sandbox.drawn.append(1)
        for drawing in draw_all(choose_protocol(collection, None), analysis.frames):
            drawing.figure.canvas.draw()
        plt.close("all")

    assert {path.name for path in sandbox.folder.iterdir()} == {"runs", "out"}
    written = [path.relative_to(sandbox.out).as_posix() for path in sandbox.out.rglob("*") if path.is_file()]
    assert all(OURS.fullmatch(name) or name in ("collection.json", ".lock") for name in written)
