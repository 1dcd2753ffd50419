"""What cells and settings are called in tables, figures and sentences: one place, so that they are called the same.

What of a setting is the paper's goes without saying; whatever is not is said wherever the setting is named.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from itertools import chain, count
from typing import Any

import numpy as np
import pandas as pd

from harness.fields import FIELDS
from harness.measures import NETWORKS
from results.read.schema import CONFIGURATION, TRAINING_COLUMNS

Row = pd.Series | Mapping[str, Any]

# The variants of the paper's tables in its order, and relatives, as the paper and the field write them.
PAPER_NAMES = {
    "aae": "AAE",
    "latent_mapping": "latent-mapping-IAAE",
    "n_iter": "n-iter-IAAE",
    "kld_loss": "KLD-loss-IAAE",
    "feature": "feature-IAAE",
    "equal_linear": "equal-linear-IAAE",
    "vae": "VAE",
    "beta_vae": "beta-VAE",
    "gan": "GAN",
    "vae_gan": "VAE-GAN",
    "dfc_vae": "DFC-VAE",
    "wae_mmd": "WAE-MMD",
}

# The options that the paper gives its variants; beside these a linear head of sigma, and no remedy.
PAPER_OPTIONS: dict[str, dict[str, Any]] = {
    "latent_mapping": {"depth": 4},
    "n_iter": {"n": 3},
    "kld_loss": {"sigma": "exp", "weight": 0.1, "direction": "posterior_prior"},
    "feature": {"weight": 1.0},
}

# The columns that name a setting beside data set, size and budget, and the paper's values in them (at 32 px).
_NAMED_OTHERWISE = ("variant", "options", "dataset", "image_size", "seed")
NEUTRAL: dict[str, Any] = {
    name: FIELDS[name].default_among({"image_size": 32}) for name in TRAINING_COLUMNS if name not in _NAMED_OTHERWISE
} | {"training": "{}"}
LABEL_COLUMNS = [column for column in CONFIGURATION if column.name in NEUTRAL]
MOST_LETTERS = 100  # of a label in a file's name
BARE = ("architecture", "mixed_precision")  # whose values say what they are


def label_setting(row: Row) -> str:
    """What differs from the paper's setting, as in "learning_rate=0.003, conv, bf16, ema_decay=0.999"; or nothing.

    What the row has no column for, as one over several data sets has none for their batch sizes, goes without saying.
    """
    return _label(row.get("image_size"), *(to_plain(row.get(name)) for name in NEUTRAL))


def label_settings(rows: pd.DataFrame) -> list[str]:
    """label_setting of each row."""
    number = rows.groupby(["image_size", *NEUTRAL], dropna=False, sort=False).ngroup()
    labels = [label_setting(row) for _, row in rows.loc[~number.duplicated()].iterrows()]
    return [labels[place] for place in number]


def to_plain(value: Any) -> Any:
    """A value of a table as Python's own, which JSON takes too; a missing one is None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if pd.isna(value) else value


@cache
def _label(image_size: Any, *values: Any) -> str:
    parts = []
    for name, value in zip(NEUTRAL, values, strict=True):
        if value is None:
            continue
        if name == "training":
            parts += [f"{key}={format_value(inner)}" for key, inner in json.loads(value).items()]  # as `--set` takes it
        elif value != FIELDS[name].default_among({"image_size": image_size}):
            parts.append(str(value) if name in BARE else f"{name}={format_value(value)}")
    return ", ".join(parts)


def format_value(value: Any) -> str:
    """A setting's value, as `--set` takes it."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def add_label(text: str, label: str) -> str:
    """The text, and in brackets the label if there is one."""
    return f"{text} ({label})" if label else str(text)


def name_setting(text: str, row: Row) -> str:
    """The text that names a row's setting, and in brackets what else there is to say of it.

    A network that looks in Inception's stead is named too: distances in its features are called FID nowhere without it.
    """
    network = NETWORKS.get(str(row.get("extractor")))
    return add_label(text, ", ".join(filter(None, (label_setting(row), network and f"seen by {network}"))))


def name_place(row: Row) -> str:
    """Data set, size and what else there is to say: "mnist 32 px (conv)"."""
    return name_setting(f"{row['dataset']} {row['image_size']} px", row)


def name_file(stem: str, row: Row, taken: set[str]) -> str:
    """A stem for the files of a row's setting, with what of it is not the paper's; `taken` then holds it too.

    Where another setting has taken that name, the budget tells them apart, or else a number.
    """
    label = re.sub(r"[^A-Za-z0-9._]+", "-", label_setting(row)).strip("-.")[:MOST_LETTERS]
    named = f"{stem}-{label}" if label else stem
    names = chain([named, f"{named}-{row.get('epochs')}epochs"], (f"{named}-{number}" for number in count(2)))
    found = next(name for name in names if name not in taken)
    taken.add(found)
    return found


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
