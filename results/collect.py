"""Run folders to tables: one row per run and evaluation, and one per folder that has something wrong with it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.record import Record, RunFolder, find_run_folders

# The order of the columns of runs.csv. A value that a run does not have is empty.
IDENTITY = ["run_id", "sweep", "variant", "options", "dataset", "image_size", "seed", "epochs", "batch_size"]
IDENTITY += ["learning_rate", "latent_dim", "architecture", "channels", "max_images", "mixed_precision", "state"]
PROGRESS = ["epoch", "images_seen"]
PROTOCOL = ["protocol", "protocol_id", "extractor", "sampler", "n_real", "n_fake"]
SCORES = ["fid", "inception_score", "kid", "precision", "recall", "density", "coverage"]
POSTERIOR = [
    "sigma_mean",
    "sigma_std",
    "mu_mean",
    "mu_std",
    "noise_share",
    "active_units",
    "kl",
    "prior_kl",
    "collapse",
]
LOSSES = ["loss_reconstruction", "loss_discriminator", "loss_adversary"]
PROVENANCE = ["images_per_second", "num_processes", "interruptions", "git_commit"]
COLUMNS = IDENTITY + PROGRESS + PROTOCOL + SCORES + POSTERIOR + LOSSES + PROVENANCE
PAPER_ORDER = ["aae", "latent_mapping", "n_iter", "kld_loss", "feature", "equal_linear"]
PROBLEM_COLUMNS = ["path", "run_id", "state", "reason"]


@dataclass(frozen=True)
class Collection:
    """`runs`: COLUMNS, a row per run and evaluation, the paper's variants first, in its order.

    `problems`: a row per folder that is unfinished, failed or damaged, and why.
    `records`: the records of each run that could be read, by run id; `paths`: their folders.
    """

    runs: pd.DataFrame
    problems: pd.DataFrame
    records: dict[str, list[Record]]
    paths: dict[str, Path]


def collect(root: Path) -> Collection:
    """Read every run folder under `root`. One that cannot be read is a problem, and stops nothing.

    An unfinished run's evaluations count as rows too, with its state beside them.
    """
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, str]] = []
    records: dict[str, list[Record]] = {}
    paths: dict[str, Path] = {}
    for folder in find_run_folders(root):
        run_id = folder.path.name
        try:
            if run_id in paths:
                raise ValueError(f"another folder of this run was read: {paths[run_id]}")
            run_rows, run_records, status = _read_run(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"missing {error}" if isinstance(error, KeyError) else str(error)
            problems.append({"path": str(folder.path), "run_id": run_id, "state": "damaged", "reason": reason})
            continue
        rows += run_rows
        records[run_id], paths[run_id] = run_records, folder.path
        if status["state"] != "done":
            reason = _explain(status)
            problems.append({"path": str(folder.path), "run_id": run_id, "state": status["state"], "reason": reason})
    rows.sort(key=lambda row: (_place(row["variant"]), row["run_id"], row["epoch"]))
    runs = pd.DataFrame(rows, columns=COLUMNS)
    return Collection(runs, pd.DataFrame(problems, columns=PROBLEM_COLUMNS), records, paths)


def _place(variant: str) -> tuple[int, str]:
    return (PAPER_ORDER.index(variant) if variant in PAPER_ORDER else len(PAPER_ORDER), variant)


def _read_run(folder: RunFolder) -> tuple[list[dict[str, Any]], list[Record], dict[str, Any]]:
    """The run's rows, all its records, its status. Raises: what a damaged file raises."""
    config, environment, status = folder.read_config(), folder.read_environment(), folder.read_status()
    records = folder.read_records()
    common = {
        **{name: config[name] for name in IDENTITY if name in config},
        "run_id": folder.path.name,
        "options": json.dumps(config["options"], sort_keys=True),
        "state": status["state"],
        "num_processes": environment.get("num_processes"),
        "interruptions": status.get("interruptions", 0),
        "git_commit": environment.get("git_commit"),
    }
    rows = []
    for record in records:
        values = {
            key.partition("/")[2]: value for key, value in record.items() if key.startswith(("eval/", "posterior/"))
        }
        losses = {key.replace("/", "_"): value for key, value in record.items() if key.startswith("loss/")}
        speed = record.get("time/images_per_second")
        row = {**values, **losses, **common, "epoch": record["epoch"], "images_seen": record["images_seen"]}
        if values:
            rows.append({**row, "images_per_second": speed})
    return rows, records, status


def _explain(status: dict[str, Any]) -> str:
    progress = f"at epoch {status['epoch']} of {status['epochs']}" if "epoch" in status else "not started"
    return f"{status['reason']} ({progress})" if "reason" in status else progress
