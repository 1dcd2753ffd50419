"""kill -9 at random moments, again and again until a run is done: it ends as one that nobody disturbed.

A few kills here; `make chaos` makes many. CHAOS_KILLS is how many, CHAOS_SEED repeats the moments of a run that failed.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.record import RunFolder, find_run_folders
from tests.harness.faults import EIGHT_EPOCHS, kill_all
from tests.harness.launch.test_processes import finish, launch
from tests.harness.test_train import assert_same_run, only_folder

SEED = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
KILLS = int(os.environ.get("CHAOS_KILLS", "4"))
MANY = KILLS >= 50
# Processes, and settings: the second of each saves at steps, and decodes by moving averages.
AVERAGED = ("--set", "ema_decay=0.9", "--set", "checkpoint_minutes=0.0005", "--set", "checkpoint_every=3")
TRIALS = [(1, ()), (1, AVERAGED), (2, ()), (2, AVERAGED)] if MANY else [(1, AVERAGED), (2, ())]


def train(out: Path, n: int, settings: tuple[str, ...]) -> Any:
    return launch(out, n, "-m", "harness.train", *EIGHT_EPOCHS, *settings)


class Chaos:
    """Kills of one run after another, each a launch of its own."""

    def __init__(self, dice: random.Random, seconds: float) -> None:
        self.dice, self.seconds = dice, seconds
        self.kills, self.found = 0, Counter[str]()

    def kill_at_some_moment(self, process: Any, out: Path) -> bool:
        """Returns: whether the launch was still there to be killed."""
        moment = self.dice.choice([self.anywhere, self.in_training, self.in_writing, self.at_the_links])
        moment(process, out)
        if process.poll() is not None:
            return False
        kill_all(process)
        self.kills += 1
        self.found[self.describe(out)] += 1
        return True

    def anywhere(self, process: Any, out: Path) -> None:
        self.pass_time(process, self.dice.uniform(0, self.seconds))

    def in_training(self, process: Any, out: Path) -> None:
        """This launch has begun to train."""
        started = time.time()
        self.wait_for(process, lambda: any(self.written(folder) > started for folder in folders_in(out)))
        self.pass_time(process, self.dice.uniform(0, self.seconds / 3))

    def in_writing(self, process: Any, out: Path) -> None:
        self.pass_time(process, self.dice.uniform(0, self.seconds / 2))
        self.wait_for(process, lambda: any(out.glob("*/checkpoints/.writing-*")))
        self.pass_time(process, self.dice.choice([0, self.dice.uniform(0, 0.05)]))

    def at_the_links(self, process: Any, out: Path) -> None:
        """The newest checkpoint has just got its name."""
        before = {*out.glob("*/checkpoints/epoch-*")}
        self.wait_for(process, lambda: {*out.glob("*/checkpoints/epoch-*")} - before)

    @staticmethod
    def written(folder: RunFolder) -> float:
        file = folder.path / "status.json"
        return file.stat().st_mtime if file.exists() else 0.0

    @staticmethod
    def wait_for(process: Any, condition: Any) -> None:
        while process.poll() is None and not condition():
            time.sleep(0.0005)

    def pass_time(self, process: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.wait_for(process, lambda: time.monotonic() > end)

    @staticmethod
    def describe(out: Path) -> str:
        """What the kill left, as far as a folder shows it."""
        if not folders_in(out):
            return "before the folder was there"
        checkpoints = only_folder(out).checkpoints
        if any(checkpoints.glob(".writing-*")):
            return "within the writing of a checkpoint"
        if any(checkpoints.glob(".dropping-*")):
            return "within the dropping of an old one"
        newest = max(checkpoints.glob("epoch-*"), default=None)
        if newest is None:
            return "before the first checkpoint"
        if (checkpoints / "latest").resolve() != newest:
            return "before the links moved"
        return "after a checkpoint at a step" if "step-000000" not in newest.name else "after a checkpoint of an epoch"


def folders_in(out: Path) -> list[RunFolder]:
    return list(find_run_folders(out)) if out.exists() else []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: f"{trial[0]}-{'averaged' if trial[1] else 'plain'}")
def test_a_run_that_is_killed_again_and_again_ends_the_same(trial: tuple[int, Any], tmp_path: Path) -> None:
    n, settings = trial
    started = time.monotonic()
    finish(train(tmp_path / "whole", n, settings))
    chaos = Chaos(random.Random(f"{SEED} {trial}"), time.monotonic() - started)
    whole, runs, resumed = only_folder(tmp_path / "whole"), 0, Counter[str]()
    print(f"\nCHAOS_SEED={SEED}: {trial}; a whole run takes {chaos.seconds:.0f} s")
    while chaos.kills * len(TRIALS) < KILLS:
        runs += 1
        out = tmp_path / str(runs)
        killed = 0
        while killed < 8 and chaos.kills * len(TRIALS) < KILLS:
            if not chaos.kill_at_some_moment(process := train(out, n, settings), out):
                finish(process)
                break
            killed += 1
        finish(train(out, n, settings))
        folder = only_folder(out)
        assert_same_run(folder, whole)
        assert folder.read_status()["state"] == "done"
        assert folder.read_status()["interruptions"] <= killed
        assert not [*folder.checkpoints.glob(".*"), *folder.samples.glob(".*"), *folder.path.glob(".records*")]
        launches = folder.read_environment()["launches"]
        resumed.update("from a checkpoint" if each["epoch"] else "from epoch 0" for each in launches[1:])
    found = ", ".join(f"{count} {what}" for what, count in chaos.found.most_common())
    print(f"{chaos.kills} kills of {runs} runs ({found}); resumed: {dict(resumed)}")
    print(f"each run ended as if undisturbed; {time.monotonic() - started:.0f} s")
