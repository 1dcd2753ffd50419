"""Which runs train side by side in one process, as they differ in nothing but the seed (harness.training.together)."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from slurm import AtOnce
from slurm.process import PlannedRun

BESIDE_A_RUN = ("seed", "sweep", "search")  # what may differ
AT_MOST = 5  # by auto; tests/gpu asks of so many that they take at most twice the time of one


def find_company(run: PlannedRun, others: Sequence[PlannedRun], asked: AtOnce, gpus: int) -> list[PlannedRun]:
    """Those of the others, which all wait, that are to train beside a run, in their order.

    `auto` is for GPUs, which small networks leave idle: runs of the mlp architecture, AT_MOST in all, and no more than
    leave each GPU some. Convolutions of several seeds become grouped ones, which nobody has timed. On cores seeds gain
    nothing by it.
    """
    most = count_seeds(asked, 1 + len(others), gpus)
    if asked == "auto" and not _pays(run.config):
        most = 1
    alike = _without_seed(run.config)
    seeds, company = {run.config["seed"]}, []
    for other in others:
        if len(seeds) < most and other.config["seed"] not in seeds and _without_seed(other.config) == alike:
            seeds.add(other.config["seed"])
            company.append(other)
    return company


def count_together(runs: Sequence[PlannedRun], asked: AtOnce, gpus: int) -> int:
    """How many of these will train side by side, where the most do."""
    most = count_seeds(asked, len(runs), gpus)
    if most == 1:
        return 1
    cells = Counter(
        json.dumps(_without_seed(run.config), sort_keys=True) for run in runs if asked != "auto" or _pays(run.config)
    )
    return min(most, max(cells.values(), default=1))


def count_seeds(asked: AtOnce, runs: int, gpus: int) -> int:
    """How many train side by side at most."""
    if asked == "auto":
        return min(AT_MOST, -(-runs // gpus)) if gpus else 1
    return asked


def _pays(fields: dict[str, Any]) -> bool:
    singly = fields["mixed_precision"] == "fp16" or fields["step"] == "compiled" or fields["trackers"]
    return fields["architecture"] == "mlp" and not singly


def _without_seed(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in BESIDE_A_RUN}
