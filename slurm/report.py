"""What follows a sweep that has ended: its report, as `slurm: {then: report}` asks for it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from submitit.core.utils import DelayedSubmission

from harness.errors import RunsFailedError


@dataclass(frozen=True)
class ReportJob:
    """Collects and reports what lies under `out` into `folder`. `python` are the words that start Python for it."""

    python: list[str]
    out: Path
    folder: Path

    def __call__(self) -> None:
        """Raises: RunsFailedError if the report fails; its own words are on standard error."""
        command = [*self.python, "-m", "aaebench", "report", str(self.out), "--out", str(self.folder)]
        if subprocess.run(command, check=False).returncode:
            raise RunsFailedError(f"{self.folder} was not written")

    def checkpoint(self) -> DelayedSubmission:
        """What is run when the job starts again, after a preemption or its time limit."""
        return DelayedSubmission(self)
