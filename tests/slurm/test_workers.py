"""Workers: one run after another in a process, each as in a process of its own. All with real processes, on CPUs."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from harness.config import RunConfig, build_config
from harness.data.staging import read_data_checksum, stage_dataset
from harness.files import write_json
from harness.lock import owned
from harness.record import RunFolder
from harness.settings import load_config_file
from slurm.local import run_locally
from slurm.process import Outcome, RunQueue, Worker, plan_run
from slurm.seeds import count_together, find_company
from tests.harness.test_train import PATIENCE, ROOT, assert_same_run

SHORT = load_config_file(ROOT / "tests/harness/short.yaml")
LONG = {"epochs": 5000}
KINDS: dict[str, dict[str, Any]] = {
    "first": {"epochs": 2, "mixed_precision": "bf16", "ema_decay": 0.9},
    "diverging": {"epochs": 2, "learning_rate": 10, "variant": "kld_loss"},
    "after a failure": {"epochs": 2, "variant": "n_iter", "seed": 3},
    "own variant": {"epochs": 2, "variant": "meddling:Meddling", "seed": 4},
    "own variant again": {"epochs": 2, "variant": "meddling:Meddling", "seed": 5},
    "after a meddler": {"epochs": 3, "variant": "latent_mapping", "batch_size": 32, "ema_decay": 0.5},
}
# It changes what a process has one of, and its loss follows from how often its module has made one.
MEDDLING = """
import os, signal, sys, warnings
import torch
from variants.aae import AAE

made = calls = 0


class Meddling(AAE):
    def __init__(self, *arguments):
        global made
        made += 1
        super().__init__(*arguments)

    def reconstruction_loss(self, x):
        global calls
        calls += 1
        if calls == 40:  # the last step of a run
            self.meddle()
        return super().reconstruction_loss(x) * made

    def meddle(self):
        os.environ["AAEBENCH_CACHE"] = "/nonexistent"
        os.chdir("/")
        torch.set_num_threads(2)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        warnings.warn("meddled")
        torch.backends.cudnn.benchmark = True
"""

# One seed of it fails when it is evaluated.
BURSTING = """
from variants.aae import AAE


class Bursting(AAE):
    def decode(self, z):
        if not self.training and getattr(self.context, "draws", None) and self.context.draws.seed == 1:
            raise ZeroDivisionError("of seed 1")
        return super().decode(z)
"""


def configs(*changes: dict[str, Any]) -> list[RunConfig]:
    return [build_config(SHORT, {"epochs": 2, **change}) for change in changes]


def build_queue(out: Path, runs: list[RunConfig], at_once: int = 1) -> RunQueue:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return RunQueue([plan_run(config, out) for config in runs], out, at_once, environment, folder=ROOT)


def step_until(queue: RunQueue, condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert queue.step() or condition(), f"the queue has ended before: {what}"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def worker_of(queue: RunQueue) -> psutil.Process:
    """The process that trains the queue's only run under way."""
    (running,) = queue.running
    assert isinstance(running.process, Worker)
    assert running.process.process is not None
    return psutil.Process(running.process.process.pid)


def trains(queue: RunQueue, config: RunConfig) -> Callable[[], bool]:
    """Whether some epochs of it are recorded, so that signals are noted."""
    folder = RunFolder(queue.out / config.run_id)
    return lambda: folder.config_file.exists() and len(folder.read_records()) > 2


@pytest.fixture(scope="module")
def own_variant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "meddling.py").write_text(MEDDLING)
    (folder / "bursting.py").write_text(BURSTING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(folder))
        yield


@pytest.fixture(scope="module")
def outcomes(own_variant: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All kinds, one after another in one worker."""
    runs = configs(*KINDS.values())
    outcomes = run_locally(runs, tmp_path_factory.mktemp("worker"), at_once=1)
    return dict(zip(KINDS, outcomes, strict=True))


@pytest.fixture(scope="module")
def alone(own_variant: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Each in a process of its own."""
    out, outcomes = tmp_path_factory.mktemp("alone"), {}
    for name, config in zip(KINDS, configs(*KINDS.values()), strict=True):
        write_json(file := out / f"{config.run_id}.json", config.model_dump(mode="json"))
        command = [sys.executable, "-m", "harness.train", "--config", str(file), "--out", str(out)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        said = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
        outcomes[name] = Outcome(RunFolder(out / config.run_id), ended.returncode, said[-1])
    return outcomes


class TestARunInAWorker:
    @pytest.mark.parametrize("name", [name for name in KINDS if name != "diverging"])
    def test_equals_one_in_a_process_of_its_own_to_the_bit(
        self, name: str, outcomes: dict[str, Outcome], alone: dict[str, Outcome]
    ) -> None:
        assert (outcomes[name].exit_status, alone[name].exit_status) == (0, 0), outcomes[name].last_line
        assert_same_run(outcomes[name].folder, alone[name].folder)
        ours, theirs = (each[name].folder.read_environment() for each in (outcomes, alone))
        for key in ("threads", "data_sha256", "versions", "device", "step", "seeds_at_once"):
            assert ours[key] == theirs[key], key
        assert Path(ours["command"][0]) == Path(theirs["command"][0])

    def test_fails_as_one_in_a_process_of_its_own(
        self, outcomes: dict[str, Outcome], alone: dict[str, Outcome]
    ) -> None:
        ours, theirs = outcomes["diverging"], alone["diverging"]
        assert (ours.exit_status, ours.last_line) == (theirs.exit_status, theirs.last_line) != (0, "")
        assert ours.folder.read_status()["reason"] == theirs.folder.read_status()["reason"]

    def test_has_its_own_lines_in_its_log_and_no_others(self, outcomes: dict[str, Outcome]) -> None:
        for name, outcome in outcomes.items():
            lines = (outcome.folder.path / "log.txt").read_text().splitlines()
            epochs = [line.split()[1] for line in lines if line.startswith("epoch ")]
            n = KINDS[name]["epochs"]
            assert epochs == ([] if name == "diverging" else [f"{epoch}/{n}" for epoch in range(1, n + 1)])
            assert (lines[-1] == str(outcome.folder.path)) == (name != "diverging")
            assert any("meddled" in line for line in lines) == name.startswith("own variant")

    def test_is_spared_the_start(self, outcomes: dict[str, Outcome]) -> None:
        seconds = [
            outcome.folder.read_records()[0]["time/startup_seconds"]
            for name, outcome in outcomes.items()
            if name != "diverging"
        ]
        print(f"\nstart-up: {', '.join(f'{each:.2f}' for each in seconds)} s")
        assert max(seconds[1:]) < seconds[0] / 5


def test_a_killed_worker_costs_its_run_and_another_takes_its_place(tmp_path: Path) -> None:
    runs = configs({"seed": 0}, {"seed": 1} | LONG, {"seed": 2})
    queue = build_queue(tmp_path, runs)
    step_until(queue, lambda: queue.running, "a worker")
    first = worker_of(queue)
    step_until(queue, trains(queue, runs[1]), "the second run")
    assert worker_of(queue) == first
    first.kill()
    step_until(queue, lambda: len(queue.outcomes) == 2 and queue.running, "the third run")
    third = worker_of(queue)
    assert third != first
    queue.wait()
    assert [outcome.exit_status for outcome in queue.outcomes] == [0, -signal.SIGKILL, 0]
    assert queue.outcomes[1].folder.read_status()["reason"].startswith("killed by SIGKILL")
    assert queue.interruptions == []
    assert not third.is_running(), "a worker ends with the queue"


def test_a_run_that_is_terminated_saves_itself_and_its_worker_ends(tmp_path: Path) -> None:
    runs = configs({"seed": 0} | LONG, {"seed": 1})
    queue = build_queue(tmp_path, runs)
    step_until(queue, trains(queue, runs[0]), "the first run")
    worker = worker_of(queue)
    worker.terminate()
    queue.wait()
    assert [outcome.exit_status for outcome in queue.outcomes] == [128 + signal.SIGTERM, 0]
    assert queue.outcomes[0].folder.read_status()["state"] == "queued"
    assert list(queue.outcomes[0].folder.checkpoints.glob("epoch-*"))
    assert queue.interruptions == [signal.SIGTERM]
    assert not worker.is_running()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGINT, signal.SIGKILL])
def test_an_idle_worker_that_is_ended_is_nobodys_failure(tmp_path: Path, number: signal.Signals) -> None:
    runs = configs({"seed": 0, "epochs": 1}, {"seed": 1, "epochs": 1})
    queue = build_queue(tmp_path, runs)
    held = RunFolder(tmp_path / runs[1].run_id)
    held.ask_for(runs[1].model_dump(mode="json"))
    with owned(held):  # by another process, so the worker waits for it
        step_until(queue, lambda: queue.running, "a worker")
        worker = worker_of(queue)
        step_until(queue, lambda: queue.outcomes, "the first run")
        worker.send_signal(number)
        worker.wait(PATIENCE)
    queue.wait()
    assert [outcome.exit_status for outcome in queue.outcomes] == [0, 0]
    assert queue.interruptions == []


def test_a_worker_whose_supervisor_is_killed_ends_with_its_run(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.slurm.test_workers import *\n"
        f"queue = build_queue(Path({str(tmp_path)!r}), configs({{'seed': 0, 'epochs': 30}}, {{'seed': 1}}))\n"
        "step_until(queue, lambda: queue.running, 'a worker')\n"
        "print(worker_of(queue).pid, flush=True)\n"
        "queue.wait()\n"
    )
    runs = configs({"seed": 0, "epochs": 30}, {"seed": 1})
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        worker = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
    worker.wait(PATIENCE)
    assert RunFolder(tmp_path / runs[0].run_id).read_status()["state"] == "done"
    assert not (tmp_path / runs[1].run_id).exists()


class Averages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)


def test_data_that_are_staged_anew_are_seen_and_warnings_are_said_again(tmp_path: Path, empty_cache: Path) -> None:
    torch.jit.script(Averages()).save(extractor := tmp_path / "averages.pt")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 8, 8, 3), np.uint8)
    np.save(tmp_path / "before.npy", images[0])
    np.save(tmp_path / "after.npy", images[1])
    stage_dataset("noise", 8, tmp_path / "before.npy")
    before = read_data_checksum("noise", 8)
    fields = {"dataset": "noise", "image_size": 8, "epochs": 1, "max_images": None, "extractor": str(extractor)}
    runs = configs({"seed": 0} | fields, {"seed": 1} | fields, {"seed": 2} | fields)
    queue = build_queue(tmp_path / "runs", runs)
    held = RunFolder(queue.out / runs[2].run_id)
    held.ask_for(runs[2].model_dump(mode="json"))
    with owned(held):
        step_until(queue, lambda: queue.running, "a worker")
        worker = worker_of(queue)
        step_until(queue, lambda: len(queue.outcomes) == 2, "two runs")
        stage_dataset("noise", 8, tmp_path / "after.npy")
    step_until(queue, lambda: queue.running, "the third run")
    assert worker_of(queue) == worker
    queue.wait()
    assert [outcome.exit_status for outcome in queue.outcomes] == [0, 0, 0], queue.outcomes
    seen = [outcome.folder.read_environment()["data_sha256"] for outcome in queue.outcomes]
    assert seen == [before, before, read_data_checksum("noise", 8)]
    assert seen[0] != seen[2]
    for outcome in queue.outcomes:
        assert (outcome.folder.path / "log.txt").read_text().count("is TorchScript, a program") == 1
        (evaluation,) = outcome.folder.find_evaluations()
        expected = outcome.folder.read_environment()["data_sha256"]
        assert json.loads((evaluation.path / "protocol.json").read_text())["data_sha256"] == expected


def test_lines_that_are_no_answer_are_passed_over(tmp_path: Path) -> None:
    """A launcher may greet on standard output."""
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/bash\necho "Lmod: loading cuda"\necho 7\necho "{}"\nexec "$@"\n')
    launcher.chmod(0o755)
    runs = configs({"seed": 0, "epochs": 1}, {"seed": 1, "epochs": 1})
    planned = [plan_run(config, tmp_path) for config in runs]
    queue = RunQueue(planned, tmp_path, 1, os.environ, folder=ROOT, python=[str(launcher), sys.executable])
    queue.wait()
    assert [outcome.exit_status for outcome in queue.outcomes] == [0, 0]


def test_a_worker_that_cannot_start_says_so_in_the_log_of_its_run(tmp_path: Path) -> None:
    runs = configs({"seed": 0}, {"seed": 1})
    planned = [plan_run(config, tmp_path) for config in runs]
    queue = RunQueue(planned, tmp_path, 2, os.environ, python=["/bin/bash", "-c", "echo no GPU here >&2; exit 3"])
    queue.wait()
    assert [(outcome.exit_status, outcome.last_line) for outcome in queue.outcomes] == [(3, "no GPU here")] * 2


def test_nothing_is_logged_twice(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness import kept  # noqa: PLC0415

    things: kept.Kept[int] = kept.Kept(2)
    made: list[str] = []

    def make(name: str) -> int:
        logging.getLogger("harness.test").warning("made %s", name)
        made.append(name)
        return len(made)

    assert [things.get(name, lambda name=name: make(name)) for name in "aa"] == [1, 2], "a process of one run"
    monkeypatch.setattr(kept, "_keeping", True)
    caplog.clear()
    assert [things.get(name, lambda name=name: make(name)) for name in "ababca"] == [3, 4, 3, 4, 5, 6]
    assert [record.getMessage() for record in caplog.records] == [f"made {name}" for name in "ababca"]


class TestSeedsSideBySide:
    """Runs that differ in nothing but the seed, in one process of this machine's cores, as it was asked for."""

    def seeds(self, n: int, **fields: Any) -> list[RunConfig]:
        return configs(*({"seed": seed, "variant": "equal_linear", **fields} for seed in range(n)))

    def test_each_has_its_folder_and_its_log(self, tmp_path: Path) -> None:
        other, *runs = [*configs({"variant": "aae"}), *self.seeds(3)]
        outcomes = run_locally([runs[0], other, *runs[1:]], tmp_path, at_once=1, seeds_at_once=2)
        assert [outcome.exit_status for outcome in outcomes] == [0] * 4
        company = {run.run_id: RunFolder(tmp_path / run.run_id).read_environment()["seeds_at_once"] for run in runs}
        assert [company[run.run_id] for run in runs] == [2, 2, 1]
        first, second, third = ((tmp_path / run.run_id / "log.txt").read_text() for run in runs)
        assert "seed 0  epoch 2/2" in first
        assert "seed 1  epoch 2/2" in first
        log = tmp_path / runs[0].run_id / "log.txt"
        assert second == f"trained side by side with others: what is said of all is in {log}\n"
        assert "epoch 2/2" in third

    def test_one_that_fails_says_so_in_its_own_log(self, tmp_path: Path) -> None:
        runs = self.seeds(3)
        (tmp_path / runs[1].run_id / "records.jsonl").mkdir(parents=True)
        queue = self.build_queue(runs, tmp_path)
        queue.wait()
        outcomes = {each.folder.path.name: each for each in queue.outcomes}
        assert [outcomes[run.run_id].exit_status for run in runs] == [0, 2, 0]
        assert "is damaged" in outcomes[runs[1].run_id].last_line

    def test_an_error_that_nobody_explains_leaves_the_others_to_go_on(self, own_variant: None, tmp_path: Path) -> None:
        """It is in the log of its run, and the worker ends when all have ended."""
        runs = configs(*({"variant": "bursting:Bursting", "seed": seed} for seed in range(2)))
        queue = self.build_queue(runs, tmp_path)
        queue.wait()
        outcomes = {each.folder.path.name: each for each in queue.outcomes}
        assert [outcomes[run.run_id].exit_status for run in runs] == [0, 1]
        assert outcomes[runs[1].run_id].last_line == "ZeroDivisionError: of seed 1"

    def test_an_interrupt_saves_all_of_them(self, tmp_path: Path) -> None:
        runs = self.seeds(2, epochs=200, checkpoint_every=200)
        queue = self.build_queue(runs, tmp_path)
        step_until(queue, trains(queue, runs[1]), "it trains")
        queue.stop(signal.SIGTERM)
        queue.wait()
        assert queue.interruptions == [signal.SIGTERM] * 2
        for run in runs:
            folder = RunFolder(tmp_path / run.run_id)
            assert folder.read_status()["state"] == "queued"
            assert [*folder.checkpoints.iterdir()]

    def build_queue(self, runs: list[RunConfig], out: Path) -> RunQueue:
        queue = build_queue(out, runs)
        queue.find_company = partial(find_company, asked="auto", gpus=1)
        return queue


@pytest.mark.parametrize(
    ("asked", "gpus", "changes", "expected"),
    [
        (2, 0, {}, 1),
        (10, 0, {}, 7),
        ("auto", 0, {}, 0),
        ("auto", 1, {}, 4),
        ("auto", 4, {}, 2),  # nine runs, and each GPU has some
        ("auto", 9, {}, 0),
        ("auto", 1, {"architecture": "conv"}, 0),
        ("auto", 1, {"mixed_precision": "fp16"}, 0),
        ("auto", 1, {"step": "compiled"}, 0),
        ("auto", 1, {"trackers": ["mlflow"]}, 0),
        (1, 1, {}, 0),
    ],
)
def test_who_trains_side_by_side(asked: Any, gpus: int, changes: dict[str, Any], expected: int, tmp_path: Path) -> None:
    runs = [plan_run(config, tmp_path) for config in configs(*({"seed": seed} for seed in range(8)))]
    for run in runs:
        run.config.update(changes)
    others = [plan_run(config, tmp_path) for config in configs({"seed": 9, "learning_rate": 0.01})]
    company = find_company(runs[0], [*others, *runs[1:]], asked, gpus)
    assert [run.run_id for run in company] == [run.run_id for run in runs[1 : 1 + expected]]
    assert count_together([*others, *runs], asked, gpus) == 1 + expected
