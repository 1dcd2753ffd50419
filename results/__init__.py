"""What came out: CSVs and figures from run folders. Never imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # `import results` is instant: pandas is imported when something is loaded
    from results.notebook import Collection


def load(
    runs: str | Path, *, protocol: str | None = None, epoch: Literal["last", "held-out"] = "last", margin: float = 0.1
) -> "Collection":
    """The run folders below a folder, and everything that is computed of them, for Python and notebooks.

        collection = results.load("runs")
        collection.summary                        # a row per cell: mean, std and interval over its seeds
        collection.compare()                      # each variant against the AAE of its setting, with a verdict
        collection.table("digits")                # the paper's table of a data set, or by its number, as 5
        collection.figure("fid")                  # Fig. 9

    What has not changed since the last time is not read again.

    Args: protocol: only the scores under one protocol (paper, clean), extractor or protocol id; all, side by side,
            unless given. epoch: the one that is reported of each run. margin: a fraction of the AAE's mean within which
            a variant counts as equivalent.
    Raises: harness.errors.InputError if there is no such folder, no run folder in it, or no such protocol.
    """
    from results.notebook import load_collection  # noqa: PLC0415

    return load_collection(Path(runs), protocol, epoch, margin)
