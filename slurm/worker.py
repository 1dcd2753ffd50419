"""A process that trains one run after another: `python -m slurm.worker`, which `slurm.process.Worker` starts.

It reads turns on standard input, a line of JSON each: `{"runs": [{"config": FILE, "out": FOLDER, "log": FILE}, ...],
"started": TIME}`, and answers each on standard output with a line `{"exit_statuses": [...]}`, one for each run.
Imports, data, references and compiled code stay between turns. Nothing else does: a run ends as in a process of its
own.

Several runs of a turn train side by side, see harness.training.together.

Errors that harness.train explains cost a run; any other ends the worker as it would have ended the run's process, as
after one nothing is known of the state of its device. So does a signal, when the run has saved itself.
"""

import gc
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import harness.train
from harness.commands import call
from harness.config import build_config
from harness.files import appending
from harness.kept import begin_run, keep_between_runs
from harness.settings import load_config_file
from harness.training.together import train_together
from slurm.estimate import Kind, kind_of
from slurm.process import INTERRUPTING

# What a run, or its user's own variant, may set for the whole process. Only what has changed is set back: setting the
# number of threads, for one, is no request that leaves everything as it was.
SETTINGS: Sequence[tuple[Callable[[], Any], Callable[[Any], Any]]] = (
    (Path.cwd, os.chdir),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, lambda _: torch.set_default_device(None)),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    *(
        (lambda of=of, name=name: getattr(of, name), lambda value, of=of, name=name: setattr(of, name, value))
        for of, name in (
            (torch.backends.cuda.matmul, "allow_tf32"),
            (torch.backends.cudnn, "allow_tf32"),
            (torch.backends.cudnn, "benchmark"),
            (torch.backends.cudnn, "deterministic"),
        )
    ),
    *((lambda n=n: signal.getsignal(n), lambda handler, n=n: signal.signal(n, handler)) for n in INTERRUPTING),
)


class FreshStart:
    """How a process finds itself before its first run, and how each run of this one does."""

    def __init__(self) -> None:
        self.settings = [read() for read, _ in SETTINGS]
        self.environment, self.path = dict(os.environ), list(sys.path)
        self.random_state = torch.get_rng_state()  # Python's and numpy's are any process's own
        self.kind: Kind | None = None
        self.spoiled = False  # by an error after which nothing is known of the device's state

    @contextmanager
    def given(self, run: dict[str, str]) -> Iterator[None]:
        """For one run: everything as it was, and its own log behind standard output and standard error."""
        self._restore()
        arguments = ["--config", run["config"], "--out", run["out"]]
        sys.argv = [harness.train.__file__, *arguments]  # for the record: it is the command that trains the run
        with appending(Path(run["log"])) as log, warnings.catch_warnings():  # which forgets what has been warned of
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            yield  # an error leaves them there: the interpreter prints it as it ends
            sys.stdout.flush()
            sys.stderr.flush()
            silence()
        gc.collect()  # an engine and its parts refer to one another, and hold the device's memory
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for the workers beside this one

    def _restore(self) -> None:
        for (read, write), value in zip(SETTINGS, self.settings, strict=True):
            if read() != value:
                write(value)
        if os.environ != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        sys.path[:] = self.path
        torch.set_rng_state(self.random_state)
        begin_run()

    def compile_for(self, fields: dict[str, Any]) -> None:
        """Compiled code serves the next run if that is of the same kind; else so much would come together that the
        compiler gives up, and what it then leaves uncompiled rounds otherwise.
        """
        kind = kind_of(fields)
        if self.kind not in (None, kind) and "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        self.kind = kind


def silence() -> None:
    """Let go of the log: between two runs there is nothing to say, and nobody to say it to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def train(run: dict[str, str], started: float, fresh: FreshStart) -> int:
    """One run. Returns: the exit status that a process of its own would have."""

    def train() -> None:
        fields = load_config_file(Path(run["config"]))
        forget_own(str(fields.get("variant")))
        config = build_config(fields)
        fresh.compile_for(config.model_dump(mode="json"))
        print(harness.train.train(config, Path(run["out"]), started=started).path)

    with fresh.given(run):
        return call(train)


def train_company(runs: Sequence[dict[str, str]], started: float, fresh: FreshStart) -> list[int]:
    """Runs that differ in nothing but the seed. Returns: the exit status of each, as `train`."""
    ends: list[Exception | None] = []

    def train() -> None:
        fields = [load_config_file(Path(run["config"])) for run in runs]
        forget_own(str(fields[0].get("variant")))
        configs = [build_config(each) for each in fields]
        fresh.compile_for(configs[0].model_dump(mode="json"))
        ends.extend(train_together(configs, Path(runs[0]["out"]), started=started))

    for run in runs[1:]:
        with appending(Path(run["log"])) as log:
            log.write(f"trained side by side with others: what is said of all is in {runs[0]['log']}\n".encode())
    with fresh.given(runs[0]):
        if status := call(train):  # before any of them has begun
            return [status] * len(runs)
    return [tell_end(run, end, fresh) for run, end in zip(runs, ends, strict=True)]


def tell_end(run: dict[str, str], end: Exception | None, fresh: FreshStart) -> int:
    """Say in a run's log what has ended it, as `train` does."""

    def tell() -> None:
        if end is not None:
            raise end

    with fresh.given(run):
        try:
            return call(tell)
        except Exception:  # what is not explained in a line: the others' ends are still to be told
            traceback.print_exc()
            fresh.spoiled = True
            return 1


def forget_own(variant: str) -> None:
    """A user's own variant is imported anew for each run: whatever its module has noted is of the run before."""
    module, own, _ = variant.partition(":")
    package = module.partition(".")[0]
    for name in [name for name in sys.modules if own and name.partition(".")[0] == package]:
        del sys.modules[name]


def main() -> int:
    """Returns: 0 at the end of the turns, or the exit status of a run that was interrupted."""
    turns, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # until the first run begins, whose log this is
    keep_between_runs()
    fresh = FreshStart()
    while True:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is under way that would have to be cleared up
        line = turns.readline()
        if not line:  # no more runs, or nobody there any more
            return 0
        turn = json.loads(line)
        runs, started = turn["runs"], turn["started"]
        statuses = [train(runs[0], started, fresh)] if len(runs) == 1 else train_company(runs, started, fresh)
        with suppress(BrokenPipeError):
            print(json.dumps({"exit_statuses": statuses}), file=answers, flush=True)
        interrupted = [status for status in statuses if status - 128 in INTERRUPTING]
        if interrupted or fresh.spoiled:
            return interrupted[0] if interrupted else 1


if __name__ == "__main__":
    sys.exit(main())
