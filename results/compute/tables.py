"""The paper's Tables 1 to 5, and one for every other data set: ours beside the published numbers, never mixed."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from harness.fields import paper_batch_size
from harness.measures import MEASURES, select
from results.compute.baseline import BASELINE, mark_best
from results.compute.processes import OTHER_PROCESSES
from results.compute.summary import RULES, SETTING, is_missing
from results.read.labels import LABEL_COLUMNS, NEUTRAL, format_value, label_cells, name_file, name_setting
from results.read.schema import OVER_SEEDS, Column

NUMBERS = {"cifar10": 1, "ffhq": 2, "mnist": 3, "emnist": 4, "fashion_mnist": 5}
# What may differ between the blocks of one table, as in the paper's Table 2: its two image sizes.
BLOCK = ["image_size", "batch_size", "protocol_id"]
SHOWN = {measure.name: (measure.column_title, measure.digits) for measure in select(place="table")}
MARKED = ["fid", "inception_score"]
TABLE = [
    Column("table", "integer", "number of the paper's table; empty for other data"),
    Column("kind", "string", "variant (trained here) or reference (see references.csv)"),
    Column("label", "string", "the variant, with the options that tell it from others; or the reference"),
    Column("variant", "string", "what was trained"),
    Column("options", "string", "its parameters, JSON"),
    Column("dataset", "string", "training set"),
    Column("image_size", "integer", "px"),
    Column("epochs", "integer", "training budget"),
    *LABEL_COLUMNS,
    Column("n", "integer", "seeds"),
    OTHER_PROCESSES,
    Column("n_real", "integer", "images of the reference"),
    Column("n_fake", "integer", "images generated"),
    *(
        Column(f"{name}_{suffix}", "number", f"{meaning} of {name} over seeds")
        for name in SHOWN
        for suffix, meaning in (("mean", "mean"), ("std", "standard deviation"))
    ),
    *(Column(f"{name}_mark", "string", "best, or among the best; empty: neither, or no statistics") for name in MARKED),
    Column("not_finite", "string", "measures that are NaN, infinite or beyond 1e30 in some seed, and in how many"),
    Column(
        "published_fid", "number", "of the paper's table: one seed, and another protocol unless published_comparable"
    ),
    Column("published_inception_score", "number", "likewise"),
    Column("published_comparable", "string", "yes under the protocol `published`, else no"),
    Column("protocol_id", "string", "of our numbers"),
    Column("extractor", "string", "likewise"),
    Column("epoch_rule", "string", "which epoch is reported"),
]


@dataclass(frozen=True)
class PaperTable:
    """One table: `rows` has TABLE's columns; `stem` names its files; `varied` is the setting that differs within it."""

    stem: str
    caption: str
    rows: pd.DataFrame
    varied: str | None = None


Joined = tuple[str, list[pd.DataFrame], str | None]  # data set, blocks, and the field in which they differ


@cache
def load_published() -> pd.DataFrame:
    """The paper's Tables 1-5: table, dataset, image_size, variant, fid, inception_score."""
    with (files("results") / "published" / "tables.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def build_tables(summary: pd.DataFrame, best: pd.DataFrame, references: pd.DataFrame) -> list[PaperTable]:
    """A table per data set and setting, of prior samples.

    Several sizes share one, and so do settings that differ in one other field, which then is a column.
    """
    cells = summary[summary["sampler"] == "prior"]
    shared = [name for name in SETTING if name not in (*BLOCK, "sampler")]
    cells = _add_published(cells.assign(**{f"{name}_mark": mark_best(best, cells, name) for name in MARKED}))
    floors = _prepare_references(references)
    tables: list[Joined] = []
    for (dataset, *_), group in cells.groupby(shared, dropna=False, sort=False):
        own: list[list[pd.DataFrame]] = []
        for _, block in group.groupby(BLOCK, sort=True):
            size = block["image_size"].iloc[0]
            free = next((blocks for blocks in own if all(b["image_size"].iloc[0] != size for b in blocks)), None)
            if free is None:
                own.append(free := [])
            free.append(block)
        tables += [(str(dataset), blocks, None) for blocks in own]
    tables = _join_neighbours(tables)
    taken: set[str] = set()
    built = []
    for dataset, blocks, varied in tables:
        number = NUMBERS.get(dataset)
        shared_by_all = blocks[0].iloc[0].drop([varied] if varied else [])
        stem = name_file(f"table{number}-{dataset}" if number else f"table-{dataset}", shared_by_all, taken)
        rows = pd.concat([_build_block(block, floors) for block in blocks], ignore_index=True)
        built.append(PaperTable(stem, _caption(number, dataset, blocks, varied), rows, varied))
    return sorted(built, key=lambda table: (NUMBERS.get(table.rows["dataset"].iloc[0], 9), table.stem))


def _join_neighbours(tables: list[Joined]) -> list[Joined]:
    """Tables of one block each that differ in a single field of the setting become one, sorted by it."""
    joined: list[Joined] = []
    for dataset, blocks, _ in tables:
        for place, (other, theirs, varied) in enumerate(joined):
            found = _find_difference(theirs[0].iloc[0], blocks[0].iloc[0])
            of_one_block_each = len(blocks) == 1 and (varied is not None or len(theirs) == 1)
            if dataset == other and of_one_block_each and found is not None and varied in (None, found):
                together = sorted([*theirs, *blocks], key=lambda block: _order(block[found].iloc[0]))
                joined[place] = (dataset, together, found)
                break
        else:
            joined.append((dataset, blocks, None))
    return joined


def _find_difference(first: pd.Series, second: pd.Series) -> str | None:
    """The one field in which two settings differ; None for none, for several, and for other readings."""
    names = [name for name in SETTING if name not in ("sampler", "protocol_id")]
    pairs = {name: (first[name], second[name]) for name in names}
    differing = [name for name, pair in pairs.items() if pair[0] != pair[1] and not pd.isna(list(pair)).all()]
    return differing[0] if len(differing) == 1 and differing[0] in (*NEUTRAL, "epochs") else None


def _order(value: object) -> tuple[float, str]:
    """Numbers by their value, then texts; a missing number, which stands for everything, last."""
    number = pd.to_numeric(pd.Series([value]), errors="coerce").iloc[0]
    return (float("inf") if pd.isna(number) else float(number)), str(value)


def _caption(number: int | None, dataset: str, blocks: list[pd.DataFrame], varied: str | None) -> str:
    first = blocks[0].iloc[0].copy()
    epochs = "" if varied == "epochs" else f" after {first['epochs']} epochs"
    if varied in NEUTRAL:
        first[varied] = NEUTRAL[varied] if varied != "batch_size" else paper_batch_size(first["image_size"])
    ids = ", ".join(dict.fromkeys(str(block["protocol_id"].iloc[0]) for block in blocks))
    sizes = " and ".join(dict.fromkeys(str(block["image_size"].iloc[0]) for block in blocks))
    samples = ", ".join(dict.fromkeys(str(int(n)) for block in blocks for n in sorted(block["n_fake"].unique())))
    return (
        (f"Table {number}: " if number else "")
        + name_setting(f"{dataset} at {sizes} px{epochs}", first)
        + ", mean ± standard deviation over n seeds. "
        + f"Protocol {ids}, extractor {first['extractor']}, {samples} generated images. "
        + f"Reported: {RULES[first['epoch_rule']]}."
    )


def _add_published(cells: pd.DataFrame) -> pd.DataFrame:
    """The published numbers, beside the one cell of a variant in its setting; of several, none is the published one.

    Nor is a cell of other networks or another training than the paper's.
    """
    own = {name: NEUTRAL[name] for name in ("architecture", "training", "learning_rate", "latent_dim")}
    keys = ["dataset", "image_size", "variant", *own]
    names = {"fid": "published_fid", "inception_score": "published_inception_score"}
    published = load_published().assign(**own)[[*keys, *names]].rename(columns=names)
    alone = cells.groupby([*SETTING, "variant"], dropna=False)["variant"].transform("size") == 1
    known = cells.reset_index().merge(published, on=keys, how="left").set_index("index")
    known[list(names.values())] = known[list(names.values())].where(alone)
    return known.rename_axis(None)


def _prepare_references(references: pd.DataFrame) -> dict[tuple[str, ...], pd.DataFrame]:
    """The rows of each setting, as TABLE has them."""
    rows = references.rename(columns={name: f"{name}_mean" for name in OVER_SEEDS}).assign(kind="reference")
    return {_setting(group.iloc[0]): group for _, group in rows.groupby(_REFERENCED, dropna=False, sort=False)}


_REFERENCED = [name for name in SETTING if name != "sampler"]


def _setting(row: pd.Series) -> tuple[str, ...]:
    return tuple("" if pd.isna(row[name]) else str(row[name]) for name in _REFERENCED)


def _build_block(block: pd.DataFrame, floors: dict[tuple[str, ...], pd.DataFrame]) -> pd.DataFrame:
    first = block.iloc[0]
    parts = [block.assign(kind="variant", label=label_cells(block))]
    parts += [floors[_setting(first)]] if _setting(first) in floors else []
    columns = [column.name for column in TABLE]
    table = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    return table.assign(
        table=NUMBERS.get(str(first["dataset"])),
        published_comparable="yes" if first["protocol"] == "published" else "no",
        epoch_rule=first["epoch_rule"],
        protocol_id=first["protocol_id"],
        extractor=first["extractor"],
    )


def format_varied(row: pd.Series, varied: str) -> str:
    """What a row says in the column of the setting that differs within its table."""
    value = row[varied]
    return "all" if is_missing(value) or pd.isna(value) else format_value(value)


def format_cell(row: pd.Series, name: str) -> str:
    """`34.41 ± 0.07`; without a spread for one seed; what is not finite is said; empty if it was not measured."""
    digits, factor = MEASURES[name].digits, MEASURES[name].factor
    flaws = dict(part.split() for part in str(row["not_finite"]).split(", ") if part.count(" ") == 1)
    if name in flaws and isinstance(row["not_finite"], str):
        return f"not finite in {flaws[name]} of {int(row['n'])}"
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    if is_missing(mean):
        return ""
    return f"{mean * factor:.{digits}f}" + ("" if is_missing(std) else f" ± {std * factor:.{digits}f}")


def shown_columns(rows: pd.DataFrame) -> list[str]:
    """FID, IS and whatever else of SHOWN was measured."""
    return [name for name in SHOWN if name in MARKED or rows[f"{name}_mean"].notna().any()]


def is_baseline(row: pd.Series) -> bool:
    return row["variant"] == BASELINE
