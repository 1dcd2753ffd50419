"""Seeds aggregated: the last evaluation of each finished run, averaged over the seeds of its cell."""

import json

import pandas as pd

from results.collect import POSTERIOR, SCORES

# Runs that differ in any of these are different cells; among them the protocol id, so protocols are never mixed.
CELL = ["sweep", "variant", "options", "dataset", "image_size", "epochs", "batch_size", "learning_rate", "latent_dim"]
CELL += [
    "architecture",
    "channels",
    "max_images",
    "mixed_precision",
    "eval_every",
    "protocol",
    "protocol_id",
    "extractor",
    "sampler",
]
MEASURES = [*SCORES, *(name for name in POSTERIOR if name != "collapse")]


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: n seeds, and `<measure>_mean` and `<measure>_std` over them (n - 1; empty for one seed).

    `collapse` counts the verdicts, as in "variance 2". Rows keep the order in which the cells first appear.
    """
    done = runs[runs["state"] == "done"]
    last = done[done["epoch"] == done.groupby("run_id")["epoch"].transform("max")]
    groups = last.groupby(CELL, dropna=False, sort=False)
    measured = last[MEASURES].apply(pd.to_numeric).groupby([last[name] for name in CELL], dropna=False, sort=False)
    summary = pd.concat(
        [
            groups.size().rename("n"),
            *(
                statistic.rename(f"{name}_{suffix}")
                for name in MEASURES
                for suffix, statistic in (("mean", measured[name].mean()), ("std", measured[name].std()))
            ),
            groups["collapse"].agg(_count).rename("collapse"),
        ],
        axis=1,
    )
    return summary.reset_index()


def _count(verdicts: pd.Series) -> str:
    return ", ".join(f"{verdict} {n}" for verdict, n in verdicts.value_counts().items())


def distinguishing_options(rows: pd.DataFrame) -> list[str]:
    """For each row, what tells its options from those of other rows of its variant, as in "depth=4 n=1".

    A value that most of the variant's option sets share goes without saying.
    """
    sets = rows[["variant", "options"]].drop_duplicates()
    values: dict[tuple[str, str], list[str]] = {}
    for variant, text in zip(sets["variant"], sets["options"], strict=True):
        for key, value in json.loads(text).items():
            values.setdefault((variant, key), []).append(str(value))

    def is_telling(variant: str, key: str, value: object) -> bool:
        return values[variant, key].count(str(value)) * 2 <= len(values[variant, key])

    return [
        " ".join(f"{key}={value}" for key, value in json.loads(text).items() if is_telling(variant, key, value))
        for variant, text in zip(rows["variant"], rows["options"], strict=True)
    ]
