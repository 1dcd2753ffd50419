"""Two processes under Accelerate do what one does."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.commands import call
from harness.errors import InputError
from harness.record import RunFolder
from tests.harness.test_train import PATIENCE, ROOT, SHORT, evaluated, only_folder, untimed

ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
ARGUMENTS = (*SHORT, "--variant", "equal_linear", "--epochs", "2", "--seed", "1")  # no BatchNorm in E and G


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(
    out: Path | None,
    num_processes: int,
    *arguments: str,
    cwd: Path = ROOT,
    launcher: tuple[str, ...] = ("--multi_gpu",),
    threads: int = 1,
) -> Any:
    """As a user would, on CPUs: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu ..."""
    options = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    port = ("--main_process_port", str(free_port()))
    accelerate = [ACCELERATE, "launch", *launcher, *options, *port, "--num_processes", str(num_processes)]
    alone = num_processes == 1 and launcher == ("--multi_gpu",)
    command = [*([sys.executable] if alone else accelerate), *arguments]
    return subprocess.Popen(
        [*command, *(() if out is None else ("--out", str(out)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)},
    )


def start_rank(rank: int, *arguments: str, port: int) -> Any:
    """One of two processes, without a launcher: by the variables that launchers set."""
    names = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    given = {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | given | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def finish(process: Any) -> str:
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    return stdout


def wait_until_not_running(folder: RunFolder) -> None:
    deadline = time.monotonic() + PATIENCE
    while folder.read_status()["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunFolder]:
    folders = {}
    for n in (1, 2, 4):
        out = tmp_path_factory.mktemp(f"processes{n}")
        stdout = finish(launch(out, n, "-m", "harness.train", *ARGUMENTS, "--set", "trackers=tensorboard"))
        folders[n] = only_folder(out)
        assert stdout.splitlines()[-1] == str(folders[n].path)
    return folders


def test_the_run_id_does_not_depend_on_the_number_of_processes(runs: dict[int, RunFolder]) -> None:
    assert len({folder.path.name for folder in runs.values()}) == 1
    assert [runs[n].read_environment()["num_processes"] for n in runs] == [1, 2, 4]


def test_one_process_tells_the_trackers(runs: dict[int, RunFolder]) -> None:
    assert [len([*folder.path.glob("tensorboard/events.*")]) for folder in runs.values()] == [1, 1, 1]


@pytest.mark.parametrize("n", [2, 4])
def test_losses_and_scores_agree_within_float_tolerance(runs: dict[int, RunFolder], n: int) -> None:
    for one, two in zip(untimed(runs[1]), untimed(runs[n]), strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key.startswith("loss/"):
                assert two[key] == pytest.approx(value, rel=1e-4), key
            elif isinstance(value, float):
                assert two[key] == pytest.approx(value, rel=5e-3, abs=1e-3), key
            elif isinstance(value, (int, str)):
                assert two[key] == value, key


@pytest.mark.parametrize("n", [2, 4])
def test_before_training_the_same_images_are_scored(runs: dict[int, RunFolder], n: int) -> None:
    one, two = evaluated(runs[1], 0), evaluated(runs[n], 0)
    for key, value in one.items():
        if key.startswith(("eval/", "posterior/kl")):
            assert two[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), key
    (first,), (second,) = (runs[k].find_evaluations() for k in (1, n))
    floors = [each.read_protocol()["floor"]["split_half"] for each in (first, second)]
    assert floors[1] == pytest.approx(floors[0], rel=1e-6)


def test_a_batch_that_cannot_be_shared_equally_is_refused_once(tmp_path: Path) -> None:
    process = launch(tmp_path / "runs", 2, "-m", "harness.train", *SHORT, "--batch-size", "15")
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode != 0
    assert stderr.count("cannot be shared equally by 2 processes") == 1
    assert not (tmp_path / "runs").exists()


def test_what_one_process_raises_all_raise(tmp_path: Path) -> None:
    """One rank's images are NaN: both end, with the reason, and nobody waits."""
    script = tmp_path / "diverge.py"
    script.write_text(
        "import os, sys\n"
        "from harness.commands import call\n"
        "from harness.errors import DivergedError, InputError\n"
        "from harness.launch.processes import Processes, build_accelerator\n"
        "class Odd(Exception):\n"
        "    def __init__(self, one, two): super().__init__(one)\n"
        "class Held(Exception):\n"
        "    def __init__(self, text): super().__init__(text); self.file = sys.stdin\n"
        "def fail(error): raise error\n"
        "def check(rank):\n"
        "    if rank == 1: raise DivergedError('the images of rank 1 are not finite')\n"
        "def diverge():\n"
        "    processes = Processes(build_accelerator('no'))\n"
        "    try: processes.require_same('data', f'of {processes.rank}')\n"
        "    except InputError as error: print(error)\n"
        "    for error in (Odd('cannot be made again', 2), Held('cannot be pickled')):\n"
        "        try: processes.on_main(lambda: fail(error))\n"
        "        except RuntimeError as known: print(known)\n"
        "    processes.main_first(lambda: check(processes.rank))\n"
        "    print('went on')\n"
        "sys.exit(call(diverge))\n"
    )
    process = launch(None, 2, str(script))
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "went on" not in stdout
    assert stdout.count("process 1 has the data of 1 and process 0 of 0; give every node the same command") == 2
    for text in ("Odd: cannot be made again", "Held: cannot be pickled"):  # as few errors of others' classes can
        assert stdout.count(text) == 2, "both ranks hear of it"
    assert "aaebench: the images of rank 1 are not finite" in stderr, "the main process says what rank 1 met"


def test_what_all_raise_by_themselves_the_main_process_says_though_it_comes_last(tmp_path: Path) -> None:
    """As on bad input: the launcher ends all processes as soon as one has ended."""
    script = tmp_path / "late.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from harness.commands import call\n"
        "from harness.errors import InputError\n"
        "def refuse():\n"
        "    here, rank = Path(sys.argv[1]), int(os.environ['RANK'])\n"
        "    (here / str(rank)).touch()\n"
        "    while not (here / str(1 - rank)).exists(): time.sleep(0.01)\n"
        "    time.sleep(1 if rank == 0 else 0)\n"
        "    raise InputError('there is no such variant')\n"
        "sys.exit(call(refuse))\n"
    )
    process = launch(None, 2, str(script), str(tmp_path))
    assert process.communicate(timeout=PATIENCE)[1].count("aaebench: there is no such variant") == 1


def test_what_one_process_alone_raises_it_says_itself(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where one node lacks a package: the others wait for it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("harness.commands.SECONDS_TO_SPEAK", 0)

    def refuse() -> None:
        raise InputError("this node lacks a package")

    assert call(refuse) == 2
    assert "aaebench: this node lacks a package" in capfd.readouterr().err


def test_a_run_that_is_done_before_the_second_process_looks_is_left_by_both(tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import os, shutil, sys, time\n"
        "from pathlib import Path\n"
        "from harness.config import build_config\n"
        "from harness.record import RunFolder\n"
        "from harness.train import train\n"
        "finished, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "config = build_config(RunFolder(finished).read_config())\n"
        "if os.environ['RANK'] == '1':\n"
        "    time.sleep(2)\n"
        "    shutil.copytree(finished, out / config.run_id, symlinks=True)\n"
        "train(config, out)\n"
    )
    finish(launch(None, 2, str(tmp_path / "late.py"), str(finished_run), str(tmp_path / "runs")))
    for file in ("status.json", "environment.json", "records.jsonl"):
        left = only_folder(tmp_path / "runs").path / file
        assert left.stat().st_mtime_ns == (finished_run / file).stat().st_mtime_ns, "as it was copied"


WORKERS_LEFT = """
import atexit, sys
from pathlib import Path
def report():
    names = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    print("left:", sum("gloo" in name for name in names), flush=True)
atexit.register(report)  # what is registered first runs last
import harness.launch.processes as processes
these = processes.Processes(processes.build_accelerator())
print("at work:", these.agree(True), flush=True)
way = sys.argv[1]
if way == "left at once" and these.rank == 1: sys.exit()
if way == "raising": raise KeyError(way)
if way == "left at once":
    with processes.explaining_lost_peers():
        while True: these.agree(True)
"""


@pytest.mark.parametrize("way", ["returning", "raising", "left at once"])
def test_no_worker_of_gloo_outlives_the_process_group_however_a_users_script_ends(way: str, tmp_path: Path) -> None:
    """One that does aborts a process now and then: it takes Python's lock while Python shuts down."""
    script = tmp_path / "script.py"
    script.write_text(WORKERS_LEFT)
    port = free_port()
    ranks = [start_rank(rank, str(script), way, port=port) for rank in (0, 1)]
    ended = [(process.communicate(timeout=PATIENCE), process.returncode) for process in ranks]
    for rank, ((stdout, stderr), status) in enumerate(ended):
        assert stdout.split("\n") == ["at work: (True,)", "left: 0", ""], stderr
        assert status == (way == "raising" or (way, rank) == ("left at once", 0)), stderr


def test_missing_weights_are_explained_once(tmp_path: Path) -> None:
    process = launch(tmp_path, 2, "-m", "harness.train", "--dataset", "digits")
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert stderr.count("aaebench stage --inception") == 1
    assert "connectFullMesh" not in stderr
    assert not list(tmp_path.iterdir())
