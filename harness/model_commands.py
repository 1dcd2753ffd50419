"""The commands for a trained model: `aaebench export`, `aaebench sample`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def export(
    run: Path,
    /,
    *,
    out: Path | None = None,
    checkpoint: Literal["best", "latest"] = "best",
    trust_code: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a trained model on its own to one folder.

    Parameters
    ----------
    run
        A run folder, of a run that is done or under way.
    out
        The folder to write; an earlier export of the same run is replaced. [default: RUN_ID-export]
    checkpoint
        best: the one with the lowest FID among those that were evaluated; latest: the newest.
    trust_code
        Import the code of a variant that is not ours (package.module:Class), from the working folder on. Read it first.
    """
    from harness.models.export import write_export  # noqa: PLC0415 (imports torch)

    print(write_export(run, checkpoint, out, trust_code))


def sample(
    run: Path,
    /,
    *,
    n: Annotated[int, Parameter(("-n", "--n"))] = 64,
    out: Path | None = None,
    seed: int = 0,
    checkpoint: Literal["best", "latest"] = "best",
    trust_code: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw images from a trained model into a folder of PNG files, with a picture of the first 64 beside it.

    With --out PICTURE.png into that picture alone.

    Parameters
    ----------
    run
        A run folder or an export.
    n
        How many images.
    out
        The folder to write, and OUT.png; or a .png, which is then all that is written. Earlier samples of the same run
        are replaced. [default: RUN_ID-samples]
    seed
        Image i follows from the seed and i. With the run's own seed these are the images that its scores are of (in
        whole batches: where the last batch of an evaluation was smaller, it was normalised by itself).
    checkpoint
        Of a run: best or latest. An export holds one.
    trust_code
        Import the code of a variant that is not ours (package.module:Class), from the working folder on. Read it first.
    """
    from harness.models.drawing import write_images  # noqa: PLC0415 (imports torch)

    print(write_images(run, n, seed, checkpoint, out, trust_code))
