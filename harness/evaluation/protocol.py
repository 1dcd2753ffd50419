"""What a score means: everything that changes its value, hashed to a protocol id. Standard library only."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

# Part of every protocol id: raise it when a change in this package changes the value of a score.
STATISTICS_VERSION = 1

EXTRACTORS = ("inception", "domain")

# How encoder and decoder normalise while they are evaluated: with the statistics of each batch, as in training and in
# the published procedure, or with the running statistics. With batch statistics a score depends on the batch size.
Normalisation = Literal["batch", "running"]
PROTOCOLS: dict[str, Normalisation] = {"paper": "batch", "clean": "running"}


def evaluation_batch_size(image_size: int) -> int:
    """1024 at 32 px and 256 at 64 px (paper, section 6.1)."""
    return 1024 if image_size <= 32 else 256


@dataclass(frozen=True)
class Protocol:
    """One way to score, against one reference.

    Scores of different protocol ids are different quantities and never share a table.
    """

    name: str
    normalisation: Normalisation
    batch_size: int
    data_sha256: str
    n_real: int
    n_fake: int
    extractor: str
    extractor_sha256: str
    resize: str
    quantisation: str = "uint8, rounded"
    reference: str = "training set"
    statistics_version: int = STATISTICS_VERSION

    @property
    def id(self) -> str:
        """The name and a hash of every field."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:10]}"
