"""Run folders to tables: one row per run and evaluation, and one per folder that has something wrong with it."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from harness.record import Record, RunFolder, find_run_folders

# The order of the columns of runs.csv. A value that a run does not have is empty.
CONFIGURED = ["sweep", "variant", "options", "dataset", "image_size", "seed", "epochs", "batch_size", "learning_rate"]
CONFIGURED += ["latent_dim", "architecture", "channels", "max_images", "mixed_precision", "eval_every"]
IDENTITY = ["run_id", *CONFIGURED, "state"]
PROGRESS = ["epoch", "images_seen"]
PROTOCOL = ["protocol", "protocol_id", "extractor", "sampler", "n_real", "n_fake"]
SCORES = ["fid", "inception_score", "kid", "precision", "recall", "density", "coverage"]
POSTERIOR = ["sigma_mean", "sigma_std", "mu_mean", "mu_std", "noise_share", "active_units", "kl", "prior_kl"]
POSTERIOR += ["reconstruction_l1", "collapse"]
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

    def select(self, run_ids: set[str]) -> "Collection":
        """What concerns these runs."""
        return Collection(
            self.runs[self.runs["run_id"].isin(run_ids)].reset_index(drop=True),
            self.problems[self.problems["run_id"].isin(run_ids)].reset_index(drop=True),
            {run_id: records for run_id, records in self.records.items() if run_id in run_ids},
            {run_id: path for run_id, path in self.paths.items() if run_id in run_ids},
        )


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
        except Exception as error:  # what a damaged folder raises is open-ended, and none may stop the others
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
    for name in CONFIGURED:
        if isinstance(config[name], (list, dict)) and name != "options":
            raise ValueError(f"config.json: {name} is {config[name]!r}")
    if (run_id := environment.get("run_id", folder.path.name)) != folder.path.name:
        raise ValueError(f"it holds a copy of the run {run_id}")
    common = {
        **{name: config[name] for name in CONFIGURED},
        "run_id": folder.path.name,
        "options": json.dumps(config["options"], sort_keys=True),
        "state": status["state"],
        "num_processes": environment.get("num_processes"),
        "interruptions": status.get("interruptions", 0),
        "git_commit": environment.get("git_commit"),
    }
    rows = []
    for record in records:
        posterior = _under("posterior", record)
        common_now = {
            **posterior,
            **{key.replace("/", "_"): value for key, value in record.items() if key.startswith("loss/")},
            **common,
            "epoch": record["epoch"],
            "images_seen": record["images_seen"],
            "images_per_second": record.get("time/images_per_second"),
        }
        samplers = dict.fromkeys(key.partition("/")[0] for key in record if key.startswith("eval"))
        rows += [{**_under(sampler, record), **common_now} for sampler in samplers]
    for row in rows:
        for name in (*SCORES, *POSTERIOR):
            if name != "collapse" and not isinstance(row.get(name), (int, float, NoneType)):
                raise ValueError(f"{name} is {row[name]!r} in epoch {row['epoch']}")
    if status["state"] == "done" and not rows:
        raise ValueError("it is done and has no evaluation")
    return rows, records, status


def _under(group: str, record: Record) -> dict[str, Any]:
    return {key.removeprefix(f"{group}/"): value for key, value in record.items() if key.startswith(f"{group}/")}


def _explain(status: dict[str, Any]) -> str:
    progress = f"at epoch {status['epoch']} of {status.get('epochs')}" if "epoch" in status else "not started"
    return f"{status['reason']} ({progress})" if "reason" in status else progress
