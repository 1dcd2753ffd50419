"""What was submitted: one folder per submission, which nothing but its own jobs and the sweep commands touch.

OUT/sweeps/<sweep>/<time>/
  submission.json    the sweep file's content, all its runs, and which job has which runs
  code/              what the jobs run
  jobs/              submitit's scripts, pickles and the jobs' own logs
  peers/             what the ranks of a job tell one another
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
from filelock import Timeout
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.errors import InputError
from harness.files import make_folder, share, write_json
from harness.lock import lock_of
from harness.settings import parse_json
from slurm import Executor


class Owner(TypedDict):
    """The process that runs a local submission: where, its id, and when it started."""

    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    started: float


@dataclass
class Submission:
    """`jobs` maps a job's id, as 12_3, to its runs; a local submission has one entry, the id of its process.

    `run_ids` are all runs that the sweep file named when it was submitted.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    folder: Path
    sweep: str
    executor: Executor
    content: dict[str, Any]
    run_ids: list[str]
    created: float = field(default_factory=time.time)
    jobs: dict[str, list[str]] = field(default_factory=dict)
    process: Owner | None = None

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def logs(self) -> Path:
        return self.folder / "jobs"

    def save(self) -> None:
        content = {key: value for key, value in vars(self).items() if key != "folder"}
        write_json(self.folder / "submission.json", content)

    @contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Nothing is left of the submission if the body raises."""
        try:
            yield
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def own(self) -> None:
        """Note this process as the one that runs the submission."""
        now = psutil.Process()
        self.process = {"host": socket.gethostname(), "pid": os.getpid(), "started": now.create_time()}

    def disown(self) -> None:
        """Note that no process runs the submission any more."""
        self.process = None
        self.save()

    def find_process(self) -> psutil.Process | None:
        """The process that runs a local submission, if it is on this machine and alive."""
        if self.process is None or self.process["host"] != socket.gethostname():
            return None
        try:
            found = psutil.Process(self.process["pid"])
            return found if abs(found.create_time() - self.process["started"]) < 1 else None
        except psutil.NoSuchProcess:
            return None


_SUBMISSION = TypeAdapter(Submission)


def sweep_folder(out: Path, sweep: str) -> Path:
    return out.absolute() / "sweeps" / sweep


def create_folder(out: Path, sweep: str) -> Path:
    """A fresh folder for a submission: job ids start anew on a new cluster, and old files would be taken for theirs.

    Raises: InputError if it cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        folder = sweep_folder(out, sweep) / (f"{stamp}-{number}" if number else stamp)
        try:
            make_folder(folder.parent)
            folder.mkdir()
            share(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error}; choose another place with --out") from error
        return folder
    raise InputError(f"{sweep_folder(out, sweep)} is full of submissions of this second")


def load_submissions(out: Path, sweep: str) -> list[Submission]:
    """A sweep's submissions, oldest first. Raises: InputError for a damaged one."""
    found = []
    for file in sweep_folder(out, sweep).glob("*/submission.json"):
        try:
            content = {**parse_json(file.read_text(encoding="utf-8")), "folder": str(file.parent)}
            found.append(_SUBMISSION.validate_json(json.dumps(content)))
        except (OSError, ValueError, TypeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise InputError(f"{file} is damaged ({reason}); remove it, and what it submitted is forgotten") from error
    return sorted(found, key=lambda submission: submission.created)


@contextmanager
def submitting(out: Path, sweep: str) -> Iterator[None]:
    """Hold the sweep while it is planned and submitted. Raises: InputError if another process is submitting it."""
    folder = sweep_folder(out, sweep)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
        lock = lock_of(folder)
        lock.acquire(timeout=5)
    except Timeout as error:
        raise InputError(f"another process is submitting the sweep {sweep} at this moment; try again") from error
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error}; choose another place with --out") from error
    try:
        yield
    finally:
        if not any(folder.glob("*/submission.json")):
            (folder / ".lock").unlink(missing_ok=True)
            for path in made:
                try:
                    path.rmdir()
                except OSError:
                    break
        lock.release()
