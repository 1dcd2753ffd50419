"""What a command prints is whole, on terminals of 60, 80 and 140 columns and in a pipe: no number is cut."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aaebench import app
from harness.commands import call
from harness.record import RunFolder, find_run_folders
from harness.terminal import Bar, say
from results.commands import print_summary
from results.compute.summary import summarise
from results.compute.tables import format_cell
from results.read.collect import collect
from slurm.sweep import load_sweep
from tests.results.runs import score_again, trained_on, write_campaign
from tests.slurm.pretended import pretend

WIDTHS = [60, 80, 140, None]  # None: a pipe
SWEEP = """
name: named
grid: {variant: [aae, latent_mapping], learning_rate: [0.000123456789, 1.0e-3], batch_size: [64, 128], seed: [0, 1]}
fixed: {preset: demo, epochs: 10}
"""


def invoke(*arguments: object) -> int:
    return call(lambda: app([*map(str, arguments)], result_action="return_value"))


@contextmanager
def terminal(columns: int) -> Iterator[bytearray]:
    """Standard output and error are a terminal of this width; after it, the bytes are what was printed there."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    printed = bytearray()

    def read() -> None:
        with suppress(OSError):  # its end
            while part := os.read(leader, 65536):
                printed.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    streams, descriptors = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))
    try:
        for number in (1, 2):
            os.dup2(follower, number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(follower), "w", encoding="utf-8") for _ in range(2))
        yield printed
    finally:
        sys.stdout.close()
        sys.stderr.close()
        sys.stdout, sys.stderr = streams
        for number, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(follower)
        reader.join()
        os.close(leader)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a function prints at a width."""

    def print_at(width: int | None, function: Callable[[], Any]) -> str:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        if width is None:
            monkeypatch.setenv("COLUMNS", "60")  # which says nothing of a pipe
            capfd.readouterr()
            function()
            return "".join(capfd.readouterr())
        with terminal(width) as printed:
            function()
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", printed.decode().replace("\r", ""))

    return print_at


def require_whole(texts: list[str], printed: str) -> None:
    """Each text stands in a line of what was printed, and is no part of a longer number."""
    assert "…" not in printed
    lines = printed.splitlines()
    for text in texts:
        whole = re.compile(rf"(?<![\w.]){re.escape(text)}(?![\w.]*\w)")
        assert any(whole.search(line) for line in lines), f"{text} in\n{printed}"


def list_numbers(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w.])[+-]?\d[\d.,/:e+-]*\d%?|(?<![\w.])\d(?![\w.])", text)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections: a, and b, whose FIDs are worse; both read under paper and clean, and with a precise learning
    rate too; one seed of b on four processes.
    """
    root = tmp_path_factory.mktemp("terminal")
    fids: dict[str, dict[str, list[float]]] = {
        "a": {"aae": [1234.5678, 1240.1234, 1229.8765], "n_iter": [23.456789, 23.567891, 23.345678]},
        "b": {"aae": [1434.5671, 1428.2345, 1440.9876], "n_iter": [26.987654, 26.876543, 27.123456]},
    }
    settings: dict[str, dict[str, Any]] = {"": {}, "precise-": {"learning_rate": 0.00123456789, "architecture": "conv"}}
    for side, own in fids.items():
        for prefix, setting in settings.items():
            write_campaign(root / side, own, prefix=prefix, **setting)
        for folder in list(find_run_folders(root / side)):
            score_again(folder, "clean", "clean-1")
    trained_on(4, root / "b" / "n_iter-digits-32-seed1")
    return root


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of eight cells: one seed of each done, the other half done or under way."""
    root = tmp_path_factory.mktemp("swept")
    (root / "named.yaml").write_text(SWEEP)
    for number, config in enumerate(load_sweep(root / "named.yaml").configs):
        folder = RunFolder(root / "runs" / config.run_id)
        pretend(folder, config, *(("running", 2 + number) if number % 4 == 1 else ("done", 10)))
        folder.weights.mkdir()
        (folder.weights / "epoch-000010.safetensors").touch()
    return root


class TestResults:
    @pytest.fixture(scope="class")
    @classmethod
    def summary(cls, folders: Path) -> pd.DataFrame:
        return summarise(collect(folders / "a").runs)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_compare(self, folders: Path, width: int | None, show: Callable[..., str]) -> None:
        out = folders / f"compared-{width}"
        arguments = ("compare", folders / "a", folders / "b", "--protocol", "paper", "--out", out)
        printed = show(width, lambda: invoke(*arguments))
        table = pd.read_csv(out / "compare.csv")
        changed = table[~table["verdict"].isin(["identical", "equivalent", "undecided"])]
        assert len(changed) == 4
        for _, row in changed.iterrows():
            numbers = [f"{row[name]:.6g}" for name in ("mean_a", "mean_b")]
            numbers += [f"{row[name]:+.6g}" for name in ("difference", "low", "high")]
            require_whole([*numbers, f"{row['relative']:+.1%}", f"{row['p_holm']:.3g}"], printed)
        n = re.findall(r"(?:│|n:) 3( ‡)?(?=\s)", printed)
        assert len(n) == 4, "the seeds of each"
        assert n.count(" ‡") == 1
        require_whole(["digits 32 px (learning_rate=0.00123457, conv)"] if width is None else [], printed)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_collect(self, folders: Path, width: int | None, show: Callable[..., str]) -> None:
        out = folders / "collected"
        printed = show(width, lambda: invoke("collect", folders / "b", "--out", out))
        gap = pd.read_csv(out / "gap.csv")
        assert len(gap) == 4
        scores = [f"{row[name]:.2f}" for _, row in gap.iterrows() for name in ("fid_paper", "fid_clean")]
        require_whole([*scores, *("3, 3", "3, 3 ‡", str(out))], printed)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_the_summary_of_the_demo(self, summary: pd.DataFrame, width: int | None, show: Callable[..., str]) -> None:
        printed = show(width, lambda: print_summary(summary))
        for _, row in summary.iterrows():
            require_whole([format_cell(row, name) for name in ("fid", "inception_score", "sigma_mean")], printed)
        assert len(re.findall(r"(?:│|n:) 3(?=\s)", printed)) == len(summary) == 8

    def test_report(self, folders: Path, show: Callable[..., str]) -> None:
        out = folders / "a long name of a folder, longer than sixty columns, for a report"
        printed = show(60, lambda: invoke("report", folders / "a", "--out", out))
        require_whole([f"{out}/report.html: 0 runs to go", "shown: paper-1; also there: clean-1"], printed)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_sweep_extend(self, folders: Path, width: int | None, show: Callable[..., str]) -> None:
        arguments = ("sweep", "extend", folders / "a", "--at-most", 8, "--out", folders / "more.yaml")
        printed = show(width, lambda: invoke(*arguments))
        require_whole(["20 runs: 2 comparisons, 4 cells", str(folders / "more.yaml")], printed)


class TestSweeps:
    @pytest.mark.parametrize("width", WIDTHS)
    def test_status(self, swept: Path, width: int | None, show: Callable[..., str], tmp_path: Path) -> None:
        asked = ("sweep", "status", swept / "named.yaml", "--out", swept / "runs")
        statuses = json.loads(show(None, lambda: invoke(*asked, "--json")))
        printed = show(width, lambda: invoke(*asked))
        cells = pd.DataFrame(statuses).groupby(np.arange(len(statuses)) // 2)
        expected = [f"{part['epoch'].sum()}/{part['epochs'].sum()}" for _, part in cells]
        expected += [f"{part.loc[part['state'] == 'done', 'fid'].mean():.2f}" for _, part in cells]
        require_whole([*expected, "0.000123456789", "64", "128"], printed)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_plan(self, swept: Path, width: int | None, show: Callable[..., str]) -> None:
        asked = ("sweep", "plan", swept / "named.yaml", "--out", swept / "runs", "--executor", "local")
        printed = show(width, lambda: invoke(*asked))
        require_whole(["named: 16 runs: 12 done, 4 running"], printed)
        require_whole(list_numbers(show(None, lambda: invoke(*asked))), printed)

    @pytest.mark.parametrize("width", WIDTHS)
    def test_show(self, swept: Path, width: int | None, show: Callable[..., str]) -> None:
        folder = next(iter(find_run_folders(swept / "runs")))
        printed = show(width, lambda: invoke("show", folder.path))
        require_whole([folder.path.name, "learning_rate: 0.000123456789", "done: epoch 10 of 10"], printed)
        assert printed == show(None, lambda: invoke("show", folder.path))

    @pytest.mark.parametrize("width", WIDTHS)
    def test_evaluate(self, swept: Path, width: int | None, show: Callable[..., str]) -> None:
        done = [folder.path for folder in find_run_folders(swept / "runs") if folder.read_status()["state"] == "done"]
        printed = show(width, lambda: invoke("evaluate", *done))
        require_whole(["evaluated 0 runs; 12 had all of it"], printed)

    @pytest.mark.parametrize("width", [60, None])
    def test_doctor(self, width: int | None, tmp_path: Path, show: Callable[..., str]) -> None:
        """Each finding is one line, however long, but for its remedy."""
        printed = show(width, lambda: invoke("doctor", "--out", tmp_path))
        found = [line for line in printed.splitlines() if line.startswith(("ok ", "warning ", "PROBLEM "))]
        checks = {re.split(r"\s+", line, maxsplit=1)[1].partition(":")[0] for line in found}
        assert {"versions", "GPU", "accelerate", "run folders", "SLURM"} <= checks
        (folder,) = (line for line in found if " run folders: " in line)
        require_whole([f"{tmp_path}: writes, renames, maps, locks"], folder)


class TestImages:
    @pytest.mark.parametrize("width", [60, None])
    def test_score(self, width: int | None, tmp_path: Path, show: Callable[..., str]) -> None:
        random = np.random.default_rng(0)
        for name in ("real", "fake"):
            (tmp_path / name).mkdir()
            for number in range(12):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
        sets = ("--real", tmp_path / "real", "--fake", tmp_path / "fake", "--extractor", "domain-digits")
        printed = show(width, lambda: invoke("score", *sets))
        result = json.loads(printed[printed.index("{\n") : printed.rindex("}") + 1])
        assert result["n_fake"] == 12
        require_whole([repr(result["fid"]), repr(result["kid"])], printed)


class TestProgress:
    @pytest.mark.parametrize("width", WIDTHS)
    def test_losses_and_counts_under_way_are_whole(self, width: int | None, show: Callable[..., str]) -> None:
        losses = [f"{name} {0.123 + number:.3f}" for number, name in enumerate(("reconstruction", "discriminator"))]
        losses += ["adversary 0.693", "123456 images/s"]

        def train() -> None:
            with Bar("epochs") as bar:
                said = "  ".join(losses)
                bar.add_task(f"aae-fashion_mnist-32px-seed0-3d86aecc2a2b\n{said}", total=1000, completed=123)

        require_whole(["123/1000", *losses], show(width, train))

    @pytest.mark.parametrize("width", WIDTHS)
    def test_messages_are_not_broken_by_us(self, width: int | None, show: Callable[..., str]) -> None:
        message = f"a path that is longer than any terminal is wide: {'/folder' * 40} and 123.456 after it"
        assert show(width, lambda: say(message)) == f"{message}\n"


@pytest.mark.parametrize("command", [["compare", "a", "b"], ["collect", "a", "--out", "tables"]], ids=lambda c: c[0])
def test_a_closed_pipe_ends_a_command_quietly(aaebench: str, folders: Path, command: list[str]) -> None:
    """With the status of a process that the signal ended: 141, which no verdict has."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.run(
        [aaebench, *command],
        cwd=folders,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    os.close(writing)
    assert process.returncode == 128 + 13
    assert "Traceback" not in process.stderr
