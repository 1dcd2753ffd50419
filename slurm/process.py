"""Runs, a bounded number at a time, in processes of this machine or inside a job.

Several runs of one process each go through workers, which train one after another and are spared its start. What a
crash costs is the run that was under way, or those that trained side by side; another worker takes its place. A single
run, and each rank of one that is several processes, has a process of its own. Ranks have a queue each, and tell one
another by files what becomes of the runs: all they surely share is the file system.

Nothing here imports torch: a job's time is the runs'.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from harness.files import appending, make_folder, write_text
from harness.lock import is_owned
from harness.protocol import Protocol
from harness.readings import is_settled
from harness.record import LASTING, RunFolder

if TYPE_CHECKING:
    from harness.config import RunConfig  # imports torch

POLL_SECONDS = 0.2
BUSY_SECONDS = 300  # how long a run is waited for that another process still trains: one that SLURM gave up too early
PEER_SECONDS = 10  # how long a rank may take to end by itself once another rank has given up
FindCompany = Callable[["PlannedRun", Sequence["PlannedRun"]], Sequence["PlannedRun"]]
INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
PORTS = range(20_000, 60_001)  # where ranks meet; submitit's choice, above what services listen at


@dataclass(frozen=True)
class PlannedRun:
    """A run to start: its id and the fields of its configuration, as JSON holds them.

    `failed_at` is the time of a failure that it is tried again after. One that failed at another time since is left.
    """

    run_id: str
    config: dict[str, Any]
    failed_at: float | None = None


def plan_run(config: "RunConfig", out: Path) -> PlannedRun:
    """The run as its processes need it, planned now."""
    status = read_status(RunFolder(out / config.run_id))
    failed_at = status.get("updated") if status["state"] == "failed" else None
    return PlannedRun(config.run_id, config.model_dump(mode="json"), failed_at)


@dataclass(frozen=True)
class Outcome:
    """How a run's process ended: its exit status (-n: killed by signal n), and the last line of its log."""

    folder: RunFolder
    exit_status: int
    last_line: str

    @property
    def interruption(self) -> signal.Signals | None:
        """The signal that interrupted the run, whether it was noted or came before that; None if none did."""
        return next((number for number in INTERRUPTING if self.exit_status in (128 + number, -number)), None)


class Worker:
    """A process that trains one run after another on one GPU, or on the cores: see `slurm.worker`.

    It starts with its first turn: one run, or several that train side by side. `poll` tells what became of them.

    Args: gpu: the one that it sees, if GPUs are shared out. folder: where it runs, if not here. python: the words that
        start Python.
    """

    def __init__(self, environment: Mapping[str, str], gpu: str | None, folder: Path | None, python: Sequence[str]):
        self.environment = {**environment, **({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})}
        self.gpu, self.folder, self.python = gpu, folder, python
        self.process: subprocess.Popen[bytes] | None = None
        self.exit_statuses: list[int] | None = None

    def give(self, turn: Sequence["RunInWorker"], out: Path) -> None:
        """Have it train runs, whose logs it writes. Raises: OSError if it cannot be started."""
        self.exit_statuses, self._said, self._n = None, b"", len(turn)
        self.process = self.process or self._start(turn[0].log)
        runs = [
            {
                "config": str(run.folder.config_file.absolute()),
                "out": str(out.absolute()),
                "log": str(run.log.absolute()),
            }
            for run in turn
        ]
        line = json.dumps({"started": time.time(), "runs": runs})
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # how it has ended meanwhile, `poll` says
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def _start(self, log: Path) -> "subprocess.Popen[bytes]":
        with appending(log) as stream:  # for what keeps it from starting
            process = subprocess.Popen(
                [*self.python, "-m", "slurm.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def poll(self) -> list[int] | None:
        """The exit status of each run of its turn: what it answers, or how it ended itself; None while it trains."""
        assert self.process is not None
        assert self.process.stdout is not None
        ended = self.process.poll()  # before what it has said is read, of which then nothing is missing
        self._said += self.process.stdout.read() or b""
        if self.exit_statuses is None:
            answers = [answer for line in self._said.splitlines() if (answer := _read_answer(line))]
            self.exit_statuses = answers[0] if answers else None if ended is None else [ended] * self._n
        return self.exit_statuses

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def takes_runs(self) -> bool:
        """Whether it is there for another turn. One whose run was interrupted ends."""
        return self.process is not None and self.process.poll() is None and max(self.exit_statuses or [0]) < 128

    def dismiss(self) -> None:
        """There are no more runs for it: it ends by itself."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


def _read_answer(line: bytes) -> list[int]:
    """The exit statuses that a worker answers with; none of any other line, as a launcher's in front of it."""
    try:
        return json.loads(line)["exit_statuses"]
    except (ValueError, TypeError, LookupError):
        return []


class RunUnderWay(ABC):
    """A run, or one rank of it, that a process trains. It logs to the run's folder.

    `process` may train others as well.
    """

    process: "subprocess.Popen[bytes] | Worker"

    def __init__(self, run: PlannedRun, out: Path, rank: int = 0) -> None:
        self.run, self.folder = run, RunFolder(out / run.run_id)
        self.folder.ask_for(run.config)
        self.log = self.folder.path / log_name(rank)
        self.started = time.time()

    @abstractmethod
    def poll(self) -> int | None:
        """The exit status of the run; None while it trains."""

    def end(self) -> Outcome:
        """What became of the run, which has ended. A failure that it could not record itself is recorded here."""
        exit_status = self.poll()
        assert exit_status is not None
        return Outcome(self.folder, exit_status, read_last_line(self.log))


class RunInWorker(RunUnderWay):
    """By a worker, alone or as `number` of its turn."""

    def __init__(self, run: PlannedRun, out: Path, worker: Worker, number: int) -> None:
        super().__init__(run, out)
        with appending(self.log):  # here, where it is known what to do if it cannot be written
            pass
        self.process = self.worker = worker
        self.number = number

    def poll(self) -> int | None:
        exit_statuses = self.worker.poll()
        return None if exit_statuses is None else exit_statuses[self.number]


class RunProcess(RunUnderWay):
    """In a process of its own."""

    def __init__(
        self,
        run: PlannedRun,
        out: Path,
        environment: Mapping[str, str],
        rank: int,
        folder: Path | None,
        python: Sequence[str],
    ) -> None:
        super().__init__(run, out, rank)
        command = [*python, "-m", "harness.train", "--config", str(self.folder.config_file), "--out", str(out)]
        with appending(self.log) as log:
            self.process = self.own = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        return self.own.poll()


def choose_port(job_id: str, restarts: int) -> int:
    """Where the ranks of a job's first run meet, as submitit chooses it: jobs on one node must not meet one another.

    A restarted job has another port than before, where a process of its earlier launch may still listen.
    """
    return random.Random(f"{job_id}-{restarts}" if restarts else job_id).randint(PORTS[0], PORTS[-1])


@dataclass(frozen=True)
class Peers:
    """One rank among `world_size`. `folder` belongs to one launch of one job."""

    folder: Path
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    first_port: int

    def describe_rendezvous(self, nth_run: int) -> dict[str, str]:
        """The variables by which torch.distributed finds the other ranks; each run of a job meets at its own port."""
        return {
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(PORTS[(self.first_port - PORTS[0] + nth_run) % len(PORTS)]),
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
        }

    def give_up(self, run_id: str, reason: str) -> None:
        """Tell the others that this rank will not go on with a run."""
        make_folder(self.folder)
        write_text(self._file(run_id, self.rank), reason)

    def others_gave_up(self, run_id: str) -> bool:
        return any(self._file(run_id, rank).exists() for rank in range(self.world_size) if rank != self.rank)

    def collect_reasons(self, run_id: str, seconds: float) -> str:
        """Every rank's reason; ranks that are yet to end get so many seconds. One that was only stopped has none."""
        deadline = time.monotonic() + seconds
        files = [self._file(run_id, rank) for rank in range(self.world_size)]
        while not all(file.exists() for file in files) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        reasons = {rank: file.read_text(encoding="utf-8") for rank, file in enumerate(files) if file.exists()}
        distinct = {reason: rank for rank, reason in sorted(reasons.items(), reverse=True) if reason}
        return "; ".join(
            f"{reason} (rank {rank})" for reason, rank in sorted(distinct.items(), key=lambda item: item[1])
        )

    def _file(self, run_id: str, rank: int) -> Path:
        return self.folder / f"{run_id}.{rank}"


class RunQueue:
    """Runs, at most `at_once` processes at a time. One that fails does not stop the others.

    `rank` and `peers` are given where each run is several processes, and this is the queue of one rank of them.
    `folder` is where the processes run, if not here. `gpus` are shared out among the processes, each of which sees one.
    `python` are the words that start Python for a run. `find_company` says which runs of a sequence are to train beside
    one, in its process.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        out: Path,
        at_once: int,
        environment: Mapping[str, str],
        rank: int = 0,
        peers: Peers | None = None,
        folder: Path | None = None,
        gpus: Sequence[str] = (),
        python: Sequence[str] = (sys.executable,),
        find_company: FindCompany = lambda run, others: [],
    ) -> None:
        self.waiting, self.out, self.at_once, self.environment = list(runs), out, at_once, environment
        self.rank, self.peers, self.folder, self.gpus, self.python = rank, peers, folder, gpus, python
        self.find_company = find_company
        self.running: list[RunUnderWay] = []
        self.outcomes: list[Outcome] = []
        self.stopped = False
        self._busy_since: dict[str, float] = {}
        self._given_up_at: dict[str, float] = {}
        # Ranks meet anew for each run, which only new processes do; and what a worker spares, it spares the second run.
        self._keeps_workers = peers is None and len(self.waiting) > 1
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []

    @property
    def interruptions(self) -> list[int]:
        """The signals that have interrupted runs."""
        return [outcome.interruption for outcome in self.outcomes if outcome.interruption is not None]

    def step(self) -> bool:
        """Reap what has ended and start what there is room for. Returns: whether anything is left to wait for."""
        for process in list(self.running):
            self._follow_peers(process)
            if process.poll() is not None:
                self.running.remove(process)
                self._end(process)
        for run in list(self.waiting):
            if self.stopped or len(self._list_processes()) >= self.at_once:
                break
            if run not in self.waiting:  # it trains beside another
                continue
            if self._may_start(run):
                self._start(run)
            elif self.peers is not None and run in self.waiting:
                break  # the other ranks have started it and wait there
        self._dismiss_workers()
        return bool(self.running or self._leaving or (self.waiting and not self.stopped))

    def stop(self, number: int | None = None) -> None:
        """Start nothing more; signal what runs."""
        self.stopped = True
        for process in self._list_processes():
            if number is not None:
                process.send_signal(number)

    def wait(self, seconds: float | None = None) -> None:
        """Until all that runs has ended, or so many seconds have passed."""
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        while self.step() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _may_start(self, run: PlannedRun) -> bool:
        """Whether to start a run now. One that is over, or that another process keeps, is dealt with here."""
        folder = RunFolder(self.out / run.run_id)
        status = read_status(folder)
        outcome = None
        if status["state"] == "done" and is_over(folder, run):
            outcome = Outcome(folder, 0, "")
        elif status["state"] == "failed" and status.get("updated") != run.failed_at:  # in this job, before a requeue
            outcome = Outcome(folder, 1, str(status.get("reason", "")))
        elif self.rank == 0 and is_owned(folder):
            since = self._busy_since.setdefault(run.run_id, time.monotonic())
            if time.monotonic() - since < BUSY_SECONDS:
                return False
            outcome = Outcome(folder, 1, f"{folder.path} is being trained by another process")
        if outcome is None:
            return True
        self.waiting.remove(run)
        self.outcomes.append(outcome)
        if self.peers is not None:
            self.peers.give_up(run.run_id, outcome.last_line)
        return False

    def _list_processes(self) -> "list[subprocess.Popen[bytes] | Worker]":
        """Each once, however many runs it trains."""
        return list(dict.fromkeys(under_way.process for under_way in self.running))

    def _start(self, run: PlannedRun) -> None:
        """Start a run, and whatever is to train beside it."""
        self.waiting.remove(run)
        if self._keeps_workers:
            company = [other for other in self.find_company(run, list(self.waiting)) if self._may_start(other)]
            self.waiting = [other for other in self.waiting if other not in company]
            worker = self._choose_worker()
            turn = [RunInWorker(each, self.out, worker, n) for n, each in enumerate((run, *company))]
            worker.give(turn, self.out)
            self.running += turn
            return
        environment = self.environment
        if self.peers is not None:
            environment = {**environment, **self.peers.describe_rendezvous(len(self.outcomes))}
        if self.gpus:
            environment = {**environment, "CUDA_VISIBLE_DEVICES": self.gpus[0]}
        self.running.append(RunProcess(run, self.out, environment, self.rank, self.folder, self.python))

    def _choose_worker(self) -> Worker:
        """An idle one on the least busy GPU, or a new one on the GPU that has the fewest."""
        busy = self._list_processes()
        idle = [worker for worker in self._workers if worker not in busy and worker.takes_runs()]
        if idle:
            gpus = [worker.gpu for worker in self._workers if worker in busy]
            return min(idle, key=lambda worker: gpus.count(worker.gpu))
        gpus = [worker.gpu for worker in self._workers]
        worker = Worker(
            self.environment, min(self.gpus, key=gpus.count) if self.gpus else None, self.folder, self.python
        )
        self._workers.append(worker)
        return worker

    def _dismiss_workers(self) -> None:
        """Those that no run waits for, and those that have ended: a signal or the kernel may end an idle one."""
        busy, wanted = self._list_processes(), bool(self.waiting) and not self.stopped
        for worker in [worker for worker in self._workers if worker not in busy]:
            if not (wanted and worker.takes_runs()):
                worker.dismiss()
                self._workers.remove(worker)
                self._leaving.append(worker)
        self._leaving = [worker for worker in self._leaving if not worker.has_ended()]

    def _follow_peers(self, process: RunUnderWay) -> None:
        """A rank whose peers have given a run up would wait for them for half an hour."""
        if self.peers is not None and self.peers.others_gave_up(process.run.run_id):
            since = self._given_up_at.setdefault(process.run.run_id, time.monotonic())
            if time.monotonic() - since > PEER_SECONDS:
                process.process.send_signal(signal.SIGKILL)

    def _end(self, process: RunUnderWay) -> None:
        outcome = process.end()
        if (
            read_status(outcome.folder)["state"] == "done"
        ):  # another rank saw so before this one, which waited for it in vain
            outcome = Outcome(outcome.folder, 0, "")
        self.outcomes.append(outcome)
        if outcome.exit_status == 0 or outcome.interruption is not None:
            return
        reason = explain_exit(outcome)
        if self.peers is not None:
            given_up_before = self.peers.others_gave_up(process.run.run_id)
            self.peers.give_up(process.run.run_id, "" if given_up_before and outcome.exit_status < 0 else reason)
            reason = self.peers.collect_reasons(process.run.run_id, PEER_SECONDS if self.rank == 0 else 0)
        if self.rank == 0:
            record_failure(process.folder, reason, process.started, replace=self.peers is not None)


def is_over(folder: RunFolder, run: PlannedRun) -> bool:
    """Whether a run has everything that is asked of it now. Raises: ValueError if its status is damaged."""
    protocols = [Protocol.model_validate(each) for each in run.config["protocol"]]
    asked = SimpleNamespace(**{**run.config, "protocol": protocols})
    return is_settled(folder, cast("RunConfig", asked))


def log_name(rank: int) -> str:
    return f"log-rank{rank}.txt" if rank else "log.txt"


def read_last_line(log: Path) -> str:
    lines = [line for line in read_end(log).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def read_end(file: Path, size: int = 1 << 14) -> str:
    """The last bytes of a text file; nothing if there is no file."""
    try:
        if not file.is_file():  # a pipe would have no end
            return ""
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def read_status(folder: RunFolder) -> dict[str, Any]:
    """The run's status, with a state of its own where it is damaged."""
    try:
        return folder.read_status()
    except (OSError, ValueError):
        return {"state": "damaged"}


def explain_exit(outcome: Outcome) -> str:
    """Why a process ended, as far as it can be told from outside."""
    if outcome.exit_status == -signal.SIGKILL:
        return "killed by SIGKILL, most often by the kernel for want of memory; ask for more (mem_gb)"
    if outcome.exit_status < 0:
        return f"killed by {signal.Signals(-outcome.exit_status).name}"
    return outcome.last_line.removeprefix("aaebench: ") or f"exit status {outcome.exit_status}"


def record_failure(folder: RunFolder, reason: str, started: float, replace: bool = False) -> None:
    """Say in the run's status why it failed, unless it said so itself after `started` (`replace`: even then)."""
    status = read_status(folder)
    told = status["state"] == "failed" and status.get("updated", 0) >= started
    if status["state"] in ("done", "damaged") or (told and not replace) or is_owned(folder):
        return
    kept = {key: status[key] for key in LASTING if key in status}
    folder.write_status("failed", reason=reason, **kept)
