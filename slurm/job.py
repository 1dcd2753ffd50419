"""What runs inside a SLURM job: one supervisor per task, which has the runs trained one after another.

SLURM's warning (SIGUSR2, before the time limit or a preemption) reaches every process of the job. The runs save
themselves at a step boundary; the supervisor waits for them and then lets submitit requeue the job. A supervisor holds
no training state, so whatever else restarts the job restarts it from the run folders.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission

from harness.errors import InputError, Interrupted, RunsFailedError
from harness.record import LASTING, RunFolder
from slurm import AtOnce
from slurm.memory import choose_at_once
from slurm.process import POLL_SECONDS, Peers, PlannedRun, RunQueue, choose_port, read_status, record_failure
from slurm.seeds import count_together, find_company

FRUITLESS_LAUNCHES = 5
NOT_REQUEUED = "SLURM does not let this job requeue itself (scontrol requeue failed); sweep submit goes on from here"


@dataclass
class Job:
    """The runs of one job. submitit pickles it, calls it in every task, and asks it for its `checkpoint` to requeue.

    Args: world_size: processes per run; at_once: runs at a time, if that is 1, `auto` as the job's GPU allows;
        save_seconds: how long runs may take to save themselves; seeds_at_once: runs that train side by side, see
        slurm.seeds; python: the words that start Python for a run; fruitless: launches in a row, by run, that were
        interrupted before anything was saved.
    """

    runs: list[PlannedRun]
    out: Path
    submission: Path
    world_size: int
    at_once: AtOnce
    save_seconds: float
    seeds_at_once: AtOnce = "auto"
    python: list[str] = field(default_factory=lambda: [sys.executable])
    fruitless: dict[str, int] = field(default_factory=dict)

    def __call__(self) -> None:
        """Raises: InputError if the tasks are not those that were asked for; RunsFailedError; Interrupted."""
        signals: list[int] = []
        requeue = self._note_signals(signals)
        environment = JobEnvironment()
        self._require_world_size(environment)
        peers = self._build_peers(environment) if self.world_size > 1 else None
        variables = self._build_environment(environment)
        at_once = self._choose_at_once(variables)
        variables.setdefault("OMP_NUM_THREADS", str(max(1, _count_cores(variables) // at_once)))
        before = {run.run_id: _newest_checkpoint(self.out / run.run_id) for run in self.runs}
        queue = RunQueue(
            self.runs,
            self.out,
            at_once,
            variables,
            environment.global_rank,
            peers,
            python=self.python,
            find_company=partial(find_company, asked=self.seeds_at_once, gpus=len(_gpus_shown()[:1])),
        )
        while not (signals or queue.interruptions) and queue.step():
            time.sleep(POLL_SECONDS)
        signals += queue.interruptions
        if signal.SIGUSR2 in signals:
            queue.stop(signal.SIGUSR2)
            queue.wait(self.save_seconds)
            if environment.global_rank == 0:
                self._count_fruitless(queue, before)
                print(f"interrupted after {len(queue.outcomes)} of {len(self.runs)} runs; requeueing", flush=True)
                self._requeue(requeue)
            return
        if signals:  # SLURM ends the job, and has told the runs itself: a second SIGTERM would keep them from saving
            queue.stop()
            queue.wait()
            raise Interrupted(signals[0])
        failed = [outcome for outcome in queue.outcomes if outcome.exit_status]
        if failed:
            names = "\n".join(f"  {outcome.folder.path.name}: {outcome.last_line}" for outcome in failed)
            raise RunsFailedError(f"{len(failed)} of {len(self.runs)} runs failed:\n{names}")

    def checkpoint(self) -> DelayedSubmission:
        """What is run when the job starts again: the same runs, each from its newest checkpoint."""
        return DelayedSubmission(self)

    def _note_signals(self, signals: list[int]) -> Callable[[int, Any], Any]:
        """Note SIGUSR2 and SIGTERM in `signals`, for the loop to act on. Returns: submitit's handler, which requeues.

        A forked process inherits handlers: it must neither note nor requeue.
        """
        requeue = signal.getsignal(signal.SIGUSR2)
        assert callable(requeue), "a job runs under submitit"
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, lambda number, _: signals.append(number))
        os.register_at_fork(after_in_child=_forget_handlers)
        return requeue

    def _requeue(self, requeue: Callable[[int, Any], Any]) -> None:
        """Have submitit requeue the job. Where SLURM does not, the runs' status says so, and what to do.

        Raises: RunsFailedError if SLURM refuses; SystemExit otherwise.
        """
        try:
            requeue(signal.SIGUSR2, None)
        except (OSError, subprocess.SubprocessError) as error:
            for folder in (RunFolder(self.out / run.run_id) for run in self.runs):
                status = read_status(folder)
                if status["state"] == "queued" and folder.config_file.exists():
                    kept = {key: status[key] for key in LASTING if key in status}
                    reason = f"{status.get('reason', 'not begun')}; {NOT_REQUEUED}"
                    folder.write_status("queued", reason=reason, **kept)
            raise RunsFailedError(f"{NOT_REQUEUED} ({error})") from error

    def _require_world_size(self, environment: JobEnvironment) -> None:
        tasks = environment.num_tasks
        if tasks != self.world_size:
            raise InputError(
                f"SLURM started {tasks} tasks, where the sweep asks for {self.world_size}: another option of sbatch or "
                "a default of the cluster changes their number; see nodes, tasks_per_node and gpus_per_node"
            )

    def _build_peers(self, environment: JobEnvironment) -> Peers:
        address = environment.hostnames[0]
        try:
            socket.getaddrinfo(address, None)
        except OSError as error:
            raise InputError(
                f"the first node, {address}, cannot be found from {socket.gethostname()} ({error}): the ranks cannot "
                "meet; its name must resolve on every node (aaebench doctor --slurm)"
            ) from error
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        alone = bool(_gpus_shown())  # with the one GPU that it is shown, which to every library is number 0
        return Peers(
            folder=self.submission / "peers" / f"{environment.job_id}-{restarts}",
            rank=environment.global_rank,
            world_size=self.world_size,
            local_rank=0 if alone else environment.local_rank,
            local_world_size=1 if alone else environment.num_tasks // environment.num_nodes,
            address=address,
            first_port=choose_port(environment.job_id, restarts),
        )

    def _build_environment(self, environment: JobEnvironment) -> dict[str, str]:
        """The runs' environment: each task sees its own GPU."""
        variables = dict(os.environ)
        if gpus := _gpus_shown():
            variables["CUDA_VISIBLE_DEVICES"] = gpus[environment.local_rank % len(gpus)]
        return variables

    def _choose_at_once(self, variables: dict[str, str]) -> int:
        """A number is taken as the sweep has it: whether there is memory for so many is known where they run."""
        if self.at_once != "auto":
            return self.at_once
        gpus, cores = len(_gpus_shown()[:1]), _count_cores(variables)
        seeds = count_together(self.runs, self.seeds_at_once, gpus)
        return choose_at_once("auto", self.runs, self.out, gpus, cores, variables, self.python, seeds)

    def _count_fruitless(self, queue: RunQueue, before: dict[str, str]) -> None:
        """A run that is interrupted again and again before it has saved anything fails, and goes on no more."""
        interrupted = [outcome.folder for outcome in queue.outcomes if outcome.interruption is not None]
        for folder in (*interrupted, *(process.folder for process in queue.running)):
            run_id = folder.path.name
            saved = _newest_checkpoint(folder.path) != before[run_id]
            self.fruitless[run_id] = 0 if saved else self.fruitless.get(run_id, 0) + 1
            if self.fruitless[run_id] >= FRUITLESS_LAUNCHES:
                reason = (
                    f"interrupted {FRUITLESS_LAUNCHES} times in a row before it had saved a step; raise timeout_min"
                )
                record_failure(folder, reason, started=time.time())
                self.runs = [run for run in self.runs if run.run_id != run_id]


def _count_cores(variables: Mapping[str, str]) -> int:
    return int(variables.get("SLURM_CPUS_PER_TASK", "1"))


def _gpus_shown() -> list[str]:
    """What SLURM lets this task see of the node's GPUs, by number or name."""
    return [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu not in ("", "NoDevFiles")]


def _forget_handlers() -> None:
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGUSR2 else signal.SIG_DFL)


def _newest_checkpoint(run_folder: Path) -> str:
    return max((path.name for path in RunFolder(run_folder).checkpoints.glob("epoch-*")), default="")
