"""What cells and settings are called in tables, figures and sentences: one place, so that they are called the same."""

import json
from functools import cache

import pandas as pd

from results.read.schema import ADDED_COLUMNS, CONFIGURATION

# What of a setting is said only where it is not the paper's.
NEUTRAL = {"architecture": "mlp", "mixed_precision": "no", **ADDED_COLUMNS}
LABEL_COLUMNS = [column for column in CONFIGURATION if column.name in NEUTRAL]


def label_setting(row: pd.Series) -> str:
    """What differs from NEUTRAL, as in "conv, bf16, ema_decay=0.999"; nothing where nothing does."""
    return _label(*(row[name] for name in NEUTRAL))


def label_settings(rows: pd.DataFrame) -> list[str]:
    """label_setting of each row."""
    return [_label(*values) for values in zip(*(rows[name] for name in NEUTRAL), strict=True)]


@cache
def _label(architecture: str, mixed_precision: str, training: str) -> str:
    parts = [architecture] if architecture != NEUTRAL["architecture"] else []
    parts += [mixed_precision] if mixed_precision != NEUTRAL["mixed_precision"] else []
    for name, value in json.loads(training).items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        parts.append(f"{name}={text}")  # as `--set` takes it
    return ", ".join(parts)


def add_label(text: str, label: str) -> str:
    """The text, and in brackets the label if there is one."""
    return f"{text} ({label})" if label else str(text)


def name_setting(text: str, row: pd.Series) -> str:
    """The text that names a row's setting, and in brackets what else there is to say of it."""
    return add_label(text, label_setting(row))


def name_place(row: pd.Series) -> str:
    """Data set, size and what else there is to say: "mnist 32 px (conv)"."""
    return name_setting(f"{row['dataset']} {row['image_size']} px", row)


def distinguishing_options(rows: pd.DataFrame) -> list[str]:
    """For each row, what tells its options from those of other rows of its variant, as in "depth=4 n=1".

    A value that most of the variant's option sets share goes without saying.
    """
    sets = rows[["variant", "options"]].drop_duplicates()
    values: dict[tuple[str, str], list[str]] = {}
    for variant, text in zip(sets["variant"], sets["options"], strict=True):
        for key, value in json.loads(text).items():
            values.setdefault((variant, key), []).append(str(value))

    def telling(variant: str, text: str) -> str:
        return " ".join(
            f"{key}={value}"
            for key, value in json.loads(text).items()
            if values[variant, key].count(str(value)) * 2 <= len(values[variant, key])
        )

    told = {pair: telling(*pair) for pair in zip(sets["variant"], sets["options"], strict=True)}
    return [told[pair] for pair in zip(rows["variant"], rows["options"], strict=True)]


def label_cells(rows: pd.DataFrame) -> list[str]:
    """The variant, and in brackets the options in which its rows differ."""
    return [add_label(*pair) for pair in zip(rows["variant"], distinguishing_options(rows), strict=True)]
