"""The cells of a collection in one measure, on its scale, with variances that borrow from each other; and tests between
them, unpaired or seed by seed, whichever the measured correlation of the seeds makes better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from harness.measures import MEASURES, Scale
from results.compute.moderated import Blocks, Test, compare_paired, compare_unpaired, estimate_prior
from results.compute.statistics import Array, is_sound, to_scale
from results.compute.summary import CELL, SETTING

POOL = ["protocol", "extractor", "sampler"]  # cells that borrow from each other are scored in one way


@dataclass(frozen=True)
class Cells:
    """One measure of a collection's cells, arrays (C,) in the order of `keys`.

    Args: keys: CELL. setting, pool (C,): numbers of the cell's setting and of the cells that it borrows from.
        mean, own, variance, df: on `scale`; own: the variance (n - 1) of its seeds, variance and df: squeezed.
        shown: the mean as a reader sees it. common, worth, lenders: what was borrowed, s0^2, d0 and of how many cells.
        rows: of each run its `cell`, `block` (setting and seed) and `value`. blocks: what each pool's seeds share.
    """

    measure: str
    scale: Scale
    keys: pd.DataFrame
    setting: Array
    pool: Array
    n: Array
    mean: Array
    own: Array
    variance: Array
    df: Array
    shown: Array
    common: Array
    worth: Array
    lenders: Array
    rows: pd.DataFrame
    blocks: dict[int, Blocks]

    def least(self, cautious: bool) -> Array:
        """The squeezed variances; cautious: no less than the common one."""
        return np.where(cautious & (self.worth > 0), np.fmax(self.variance, self.common), self.variance)

    def of_pool(self, name: Literal["pays", "correlation"]) -> Array:
        """For each cell what the Blocks of its pool say."""
        values = {pool: float(getattr(blocks, name)) for pool, blocks in self.blocks.items()}
        return np.array([values[pool] for pool in self.pool])

    @property
    def flat(self) -> Array:
        """Cells whose scores are equal to the last digit: copies, or all at a bound; they are evidence of nothing."""
        return (self.n >= 2) & (self.own == 0)

    def test(self, first: Array, second: Array, cautious: bool = False) -> tuple[Test, Array, Array]:
        """The cells of these numbers against each other, first minus second.

        Args: cautious: as Prior.squeeze.
        Returns: the tests; which of them are paired; and the pairs (or of the unpaired the smaller number of seeds).
        """
        n = np.minimum(self.n[first], self.n[second])
        borrowed = (self.worth[first] > 0) & (self.worth[second] > 0)
        variances, counts, df = ((part[first], part[second]) for part in (self.least(cautious), self.n, self.df))
        unpaired = compare_unpaired(self.mean[first] - self.mean[second], variances, counts, df, borrowed)
        # One seed against others is nothing: its own spread is not known at all.
        known = (n >= 2) & ~self.flat[first] & ~self.flat[second]
        error, freedom = np.where(known, unpaired.error, np.nan), np.where(known, unpaired.df, np.nan)
        difference, used = unpaired.difference.copy(), np.zeros(len(n), bool)
        pays = self.of_pool("pays")[first].astype(bool)
        if pays.any():
            pairs = self._pair(first[pays], second[pays])
            # Pairs that leave out runs which both cells have would throw away more than they gain.
            whole = (pairs["n"].to_numpy() >= 2) & (pairs["n"].to_numpy() >= n[pays])
            at = np.flatnonzero(pays)
            for pool in np.unique(self.pool[first][pays]):
                own = whole & (self.pool[first][pays] == pool)
                test = compare_paired(
                    *(pairs.loc[own, name].to_numpy(float) for name in ("mean", "variance", "n")), cautious=cautious
                )
                difference[at[own]], error[at[own]], freedom[at[own]] = test.difference, test.error, test.df
                used[at[own]] = True
        return Test(difference, error, freedom), used, n

    def _pair(self, first: Array, second: Array) -> pd.DataFrame:
        """Of each comparison: mean, variance and number of the differences of runs with the same seed."""
        wanted = pd.DataFrame({"comparison": np.arange(len(first)), "first": first, "second": second})
        rows = wanted.merge(self.rows, left_on="first", right_on="cell").merge(
            self.rows, left_on=["second", "block"], right_on=["cell", "block"], suffixes=("_first", "_second")
        )
        difference = rows["value_first"] - rows["value_second"]
        groups = difference.groupby(rows["comparison"])
        found = pd.DataFrame({"mean": groups.mean(), "variance": groups.var(), "n": groups.size()})
        return found.reindex(np.arange(len(first))).fillna({"n": 0, "variance": 0.0})


@dataclass(frozen=True)
class Layout:
    """The rows of a collection with the numbers of what they belong to; found once, used for every measure.

    Args: rows: of finished runs at their reported epoch. keys: the columns of a cell, in the order of their numbers.
        cell, setting, pool, block (N,): of each row; a block is a setting and seed. first (C,): each cell's first row.
    """

    rows: pd.DataFrame
    keys: pd.DataFrame
    cell: Array
    setting: Array
    pool: Array
    block: Array
    first: Array


def lay_out(reported: pd.DataFrame, cell: Sequence[str] = CELL, setting: Sequence[str] = SETTING) -> Layout:
    """Args: cell: the columns that make a cell; setting: those of them that compared cells share."""
    rows = reported.reset_index(drop=True)
    number = rows.groupby([*cell], dropna=False, sort=False).ngroup().to_numpy()
    place = rows.groupby([*setting], dropna=False, sort=False).ngroup()
    pool = rows.groupby(POOL, dropna=False, sort=False).ngroup().to_numpy()
    block = rows["seed"].groupby([place, rows["seed"]], sort=False).ngroup().to_numpy()
    first = np.zeros(number.max() + 1 if len(number) else 0, int)
    first[number[::-1]] = np.arange(len(number))[::-1]
    keys = rows[[*cell]].iloc[first].reset_index(drop=True)
    return Layout(rows, keys, number, place.to_numpy(), pool, block, first)


def build_cells(layout: Layout, measure: str) -> Cells:
    """The cells in one measure.

    A score that is not finite, or beyond LARGEST, leaves its run out (n says so, and is 0 where no run has it). A
    measure with values off its scale (a KID below 0, were it judged by its logarithm) is judged on the linear one.
    """
    scale: Scale = MEASURES[measure].scale
    raw = layout.rows[measure].to_numpy(float, na_value=np.nan)
    finite = is_sound(raw)
    raw, code = raw[finite], layout.cell[finite]
    images = layout.rows["n_fake"].to_numpy(float, na_value=np.nan)[finite]
    values = to_scale(raw, scale, np.where(images > 0, images, 10_000))
    if np.isnan(values).any():
        scale, values = "linear", raw
    count = len(layout.first)
    n = np.bincount(code, minlength=count).astype(float)
    with np.errstate(invalid="ignore"):
        mean, shown = (np.bincount(code, part, minlength=count) / n for part in (values, raw))
    own = compute_variances(values, code, mean, n)
    pool = layout.pool[layout.first]
    df_own = np.maximum(n - 1, 0)
    variance, df, common, worth, lenders = (np.full(count, np.nan) for _ in range(5))
    for number in np.unique(pool):
        members = pool == number
        prior = estimate_prior(own[members], df_own[members], mean[members])
        variance[members], df[members] = prior.squeeze(own[members], df_own[members])
        common[members], worth[members], lenders[members] = prior.variance, prior.df, prior.cells
    parts = {"cell": code, "block": layout.block[finite], "value": values}
    table = pd.DataFrame({**parts, "setting": layout.setting[finite], "pool": layout.pool[finite]})
    return Cells(
        measure=measure,
        scale=scale,
        keys=layout.keys,
        setting=layout.setting[layout.first],
        pool=pool,
        n=n,
        mean=mean,
        own=own,
        variance=variance,
        df=df,
        shown=shown,
        common=common,
        worth=worth,
        lenders=lenders,
        rows=table[["cell", "block", "value"]],
        blocks={number: _measure_blocks(table[table["pool"] == number]) for number in np.unique(pool)},
    )


def compute_variances(values: Array, code: Array, mean: Array, n: Array) -> Array:
    """Of each cell (n - 1); exactly 0 where all its values are the same, whatever the rounding of their mean."""
    squares = np.bincount(code, (values - mean[code]) ** 2, minlength=len(n))
    low, high = np.full(len(n), np.inf), np.full(len(n), -np.inf)
    np.minimum.at(low, code, values)
    np.maximum.at(high, code, values)
    return np.where(low >= high, 0.0, squares / np.maximum(n - 1, 1))


def _measure_blocks(rows: pd.DataFrame) -> Blocks:
    """Of a pool's runs (`cell`, `block`, `value`, `setting`) whose seed another cell of their setting has too."""
    block, cell, value = (rows[name].to_numpy() for name in ("block", "cell", "value"))
    settings = rows["setting"].to_numpy()
    for _ in range(2):  # a seed that is left alone, then a cell that is
        shared = (np.bincount(block)[block] >= 2) & (np.bincount(cell)[cell] >= 2)
        block, cell, value, settings = block[shared], cell[shared], value[shared], settings[shared]
    if not len(value):
        return Blocks(*(np.asarray(value) for value in (np.nan, 0, np.nan, 0, 1)))
    residual = value - (np.bincount(cell, value) / np.maximum(np.bincount(cell), 1))[cell]
    size = np.bincount(block)
    common = (np.bincount(block, residual) / np.maximum(size, 1))[block]
    df = np.count_nonzero(size) - len(np.unique(settings))
    rest_df = len(value) - len(np.unique(cell)) - df
    squares = (common**2).sum(), ((residual - common) ** 2).sum()
    means = [
        square / freedom if freedom > 0 else np.nan for square, freedom in zip(squares, (df, rest_df), strict=True)
    ]
    return Blocks(*(np.asarray(part) for part in (means[0], df, means[1], rest_df, float(size[size > 0].mean()))))
