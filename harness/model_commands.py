"""The commands for a trained model: `aaebench export`."""

from pathlib import Path
from typing import Literal


def export(run: Path, /, *, out: Path | None = None, checkpoint: Literal["best", "latest"] = "best") -> None:
    """Write a trained model on its own to one folder; prints that folder.

    Parameters
    ----------
    run
        A run folder, of a run that is done or under way.
    out
        The folder to write; an earlier export of the same run is replaced. [default: RUN_ID-export]
    checkpoint
        best: the one with the lowest FID among those that were evaluated; latest: the newest.
    """
    from harness.export import write_export  # noqa: PLC0415 (imports torch)

    print(write_export(run, checkpoint, out))
