"""How long collecting takes, what memory it needs, how large a report grows. Records as large as real ones."""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from results.compute.analysis import analyse
from results.read.collect import PAPER_ORDER
from results.read.collect import collect as read_collection
from tests.results.runs import CONFIG, evaluation, histogram, write_campaign

EVALUATIONS, EPOCHS = 20, 100
COMMAND = """
import sys
from aaebench import app
from harness.commands import call
code = call(lambda: app(["collect", sys.argv[1], "--out", sys.argv[2]], result_action="return_value"))
assert "torch" not in sys.modules
sys.exit(code)
"""


def write_runs(root: Path, n: int, readings: int = 1) -> None:
    """n finished runs of 100 epochs with 20 evaluations under each protocol, posterior histograms and all."""
    posterior = {
        **{
            f"posterior/{name}_per_dim": [0.123456789012345] * 10
            for name in ("mu_mean", "mu_std", "sigma_mean", "sigma_std")
        },
        "posterior/mu_histogram": histogram(0, -4, 4),
        "posterior/sigma_histogram": histogram(0.5, 0, 2),
    }
    lines, evaluated = [], []
    for epoch in range(EPOCHS + 1):
        record = {
            "epoch": epoch,
            "images_seen": 60000 * epoch,
            "time/epoch_seconds": 3.3,
            "time/images_per_second": 9e3,
        }
        record |= {f"loss/{phase}": 0.123456789012345 for phase in ("reconstruction", "discriminator", "adversary")}
        lines.append(json.dumps(record))
        if epoch % (EPOCHS // EVALUATIONS) == 0 and epoch:
            measured = evaluation(0) | posterior
            place = {"epoch": epoch, "images_seen": record["images_seen"]}
            scores = {"eval/fid": "FID", "eval/inception_score": 4.0}
            evaluated.append(json.dumps({**place, "sampler": "prior", "sampling_seed": 0, **scores}))
            values = {key: value for key, value in measured.items() if key.startswith("posterior/")}
            evaluated.append(json.dumps({**place, **values}))
    records, evaluations = "\n".join(lines) + "\n", ("\n".join(evaluated) + "\n").replace('"FID"', "%.9f")
    random = np.random.default_rng(0)
    for number in range(n):
        variant, seed, dataset = PAPER_ORDER[number % 6], number // 6 % 5, f"data{number // 30 % 10}"
        folder = root / f"{number // 1000}" / f"{variant}-{number}"
        folder.mkdir(parents=True)
        options = {"sigma": "linear", "weight": round(0.01 * (number // 300), 2)}
        fields = {"variant": variant, "options": options, "seed": seed, "dataset": dataset, "epochs": EPOCHS}
        config = CONFIG | fields
        (folder / "config.json").write_text(json.dumps(config))
        environment = {"run_id": folder.name, "git_commit": "abc", "num_processes": 1, "device": "cuda", "gpu": "H200"}
        (folder / "environment.json").write_text(json.dumps(environment))
        (folder / "status.json").write_text(json.dumps({"state": "done", "epoch": EPOCHS, "epochs": EPOCHS}))
        (folder / "records.jsonl").write_text(records.replace("0.1234567890123", f"0.12{number:07d}123"))
        fids = np.linspace(97, 50, EVALUATIONS) * random.normal(1, 0.03, EVALUATIONS)
        for reading in range(readings):
            protocol = {"id": f"protocol{reading}-1", "name": f"protocol{reading}", "extractor": "domain"}
            (folder / "evaluations" / protocol["id"]).mkdir(parents=True)
            content = json.dumps({**protocol, "n_real": 100, "n_fake": 100, "floor": {}})
            (folder / "evaluations" / protocol["id"] / "protocol.json").write_text(content)
            (folder / "evaluations" / protocol["id"] / "records.jsonl").write_text(evaluations % tuple(fids))
        for file in folder.rglob("*.json*"):
            os.utime(file, (time.time() - 3600, time.time() - 3600))


def collect(root: Path, out: Path) -> tuple[float, float]:
    """Seconds of the command in a process of its own, its start included; GB that it and its children hold at once."""
    started, peak = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, "-c", COMMAND, str(root), str(out)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(psutil.Error):
            peak = max(peak, sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
        time.sleep(0.05)
    assert process.returncode == 0
    return time.perf_counter() - started, peak / 1e9


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    write_runs(root / "runs", 10_000)
    return root


def test_ten_thousand_runs_are_collected_within_15_seconds_and_a_gigabyte(ten_thousand: Path) -> None:
    seconds, gigabytes = collect(ten_thousand / "runs", ten_thousand / "out")
    megabytes = sum(file.stat().st_size for file in (ten_thousand / "runs").rglob("records.jsonl")) / 1e6
    print(f"\n10,000 runs of {EVALUATIONS} evaluations ({megabytes:.0f} MB): {seconds:.1f} s, {gigabytes:.2f} GB")
    assert seconds < 15
    assert gigabytes < 1


def test_three_readings_of_each_run_are_collected_within_25_seconds_and_1500_megabytes(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", 10_000, readings=3)
    seconds, gigabytes = collect(tmp_path / "runs", tmp_path / "out")
    print(f"\n10,000 runs of three readings: {seconds:.1f} s, {gigabytes:.2f} GB")
    assert seconds < 25
    assert gigabytes < 1.5


def test_the_statistics_of_ten_thousand_runs_take_2_seconds(ten_thousand: Path) -> None:
    collection = read_collection(ten_thousand / "runs")
    assert len(collection.runs) == 10_000 * EVALUATIONS
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        analyse(collection)
        seconds.append(time.perf_counter() - started)
    print(f"\nstatistics of 10,000 runs: {min(seconds):.2f} s")
    assert min(seconds) < 2


def test_collecting_again_when_nothing_changed_takes_under_2_seconds(ten_thousand: Path) -> None:
    seconds, _ = collect(ten_thousand / "runs", ten_thousand / "out")
    print(f"\n10,000 runs again: {seconds:.2f} s")
    assert seconds < 2


def test_one_changed_run_of_ten_thousand_costs_no_more_than_writing_the_tables(ten_thousand: Path) -> None:
    status = next((ten_thousand / "runs").rglob("status.json"))
    status.write_text(json.dumps({"state": "done", "epoch": EPOCHS, "epochs": EPOCHS, "interruptions": 1}))
    seconds, _ = collect(ten_thousand / "runs", ten_thousand / "out")
    print(f"\n10,000 runs, one changed: {seconds:.1f} s")
    assert seconds < 8


def test_time_grows_linearly_with_the_runs(tmp_path: Path) -> None:
    seconds = {}
    for n in (1_000, 4_000):
        write_runs(tmp_path / str(n), n)
        seconds[n], _ = collect(tmp_path / str(n), tmp_path / f"out{n}")
    print(f"\n1,000 runs: {seconds[1_000]:.1f} s, 4,000 runs: {seconds[4_000]:.1f} s")
    assert seconds[4_000] < 4.5 * seconds[1_000]


def test_a_report_of_180_runs_stays_under_5_megabytes(tmp_path: Path) -> None:
    """The paper's campaign: six variants, six data settings, five seeds; pictures of noise, the worst to compress."""
    for dataset, size in (
        ("mnist", 32),
        ("emnist", 32),
        ("fashion_mnist", 32),
        ("cifar10", 32),
        ("ffhq", 32),
        ("ffhq", 64),
    ):
        fids = {variant: [30.0 + seed for seed in range(5)] for variant in PAPER_ORDER}
        protocol_id = f"paper-{dataset}{size}"
        write_campaign(
            tmp_path / "runs", fids, pictures=True, dataset=dataset, image_size=size, protocol_id=protocol_id
        )
    started = time.perf_counter()
    command = [sys.executable, "-m", "aaebench", "report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    megabytes = (tmp_path / "out" / "report.html").stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print(f"\nreport of 180 runs: {megabytes:.1f} MB, {time.perf_counter() - started:.0f} s, {peak:.2f} GB")
    assert megabytes < 5
