"""What the best of k trials is expected to score, for each variant of a search."""

from collections.abc import Iterator

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

from harness.measures import name_fid
from results.compute.tuning import REACH
from results.read.labels import label_cells, name_place
from results.show.figures.style import Drawing, add_legend, cells_of, split_settings, style_of, use_logarithms

CAPTION = (
    f"FID that the best of k random trials is expected to have (Dodge et al. 2019); bands: where {REACH:.0%} of "
    "redraws of k from these N trials end, which a single bad one may pull the expectation out of. They are not "
    "intervals for a new search, whose trials may be better than the best of these, at which a band ends as k nears N: "
    "lines are dashed beyond N/2. All variants have the same trials; one that failed counts as the worst that any "
    "finished with."
)


def draw_budgets(budgets: pd.DataFrame) -> Iterator[Drawing]:
    """A figure for each search."""
    if budgets.empty:
        return
    named = budgets.assign(cell=label_cells(budgets), sampler="prior")
    settings, more = split_settings(named)
    styles = style_of(cells_of(named))
    for _, stem, group in settings:
        figure, axis = plt.subplots(figsize=(5.6, 3.8))
        for cell, curve in group.groupby("cell", sort=False):
            style = styles[str(cell)]
            low, high = (curve[name].astype(float) for name in ("low", "high"))
            trials, failed = curve["trials"].iloc[0], curve["failed"].iloc[0]
            label = f"{cell}, {failed} of {trials} failed" if failed else cell
            # Lines tell how far a curve is to be trusted here, and no variants: markers and colours do.
            for part, line, called in ((curve, "--", None), (curve[curve["k"] <= trials / 2], "-", label)):
                (drawn,) = axis.plot(part["k"], part["expected"].astype(float), label=called, markersize=4, **style)
                drawn.set(linestyle=line)
            axis.fill_between(curve["k"], low, high, color=style["color"], alpha=0.1, linewidth=0)
        axis.set(xlabel="trials", ylabel=f"{name_fid(group['extractor'])} of the best")
        use_logarithms(axis, "y")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(figure, [axis])
        title = f"Best of k trials, {name_place(group.iloc[0])}, {group['epochs'].iloc[0]} epochs"
        yield Drawing(f"budgets-{stem}", title, CAPTION + more, figure)
        plt.close(figure)
