"""What is measured, once: every list of scores, columns, titles and directions is derived from this table. No torch.

A new score is a function in harness/evaluation, and a row here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from harness.imagenet import EFFICIENTNET

Group = Literal["eval", "posterior", "mechanism"]
Scale = Literal["log", "logit", "linear"]
Place = Literal["table", "terminal", "report", "card"]
NAMED_AFTER_INCEPTION = ("fid", "inception_score", "inception_score_10", "kid", "fid_infinity")
NETWORKS = {EFFICIENTNET: "EfficientNet-Lite0"}  # whose name stands beside a score, by extractor


@dataclass(frozen=True)
class Measure:
    """One number of an evaluation.

    Args: group: `eval` for scores of images, once per sampler and sampling seed, `posterior` for what is measured of
            q(z|x), once per evaluated epoch, `mechanism` for what a variant's ideas are said to do, once, at the last
            epoch, where a run is asked for it; records hold it as `<group>/<name>`.
        title: as text and figures write it. meaning: as SCHEMA.md says it, with its unit.
        better: which direction is, or None where neither is.
        scale: on which differences are judged: log for positive quantities, logit for shares of 0 to 1.
        digits: after the decimal point, of what is shown, after multiplying by `factor`.
        over_seeds: whether a mean over seeds means something (an error of one evaluation has none).
        compared: whether variants are compared in it.
        places: where it is shown; CSVs hold all.
    """

    name: str
    group: Group
    title: str
    meaning: str
    better: Literal["lower", "higher"] | None = None
    scale: Scale = "linear"
    digits: int = 3
    factor: float = 1.0
    over_seeds: bool = True
    compared: bool = False
    places: tuple[Place, ...] = ()

    @property
    def column_title(self) -> str:
        """The title where it stands over numbers that are multiplied by `factor`."""
        return self.title if self.factor == 1 else f"{self.title} x {self.factor:g}"

    def title_by(self, extractor: str) -> str:
        """The title of the score in an extractor's features: what is named after Inception is not it in another's."""
        network = NETWORKS.get(extractor)
        return f"{self.title} ({network})" if network and self.name in NAMED_AFTER_INCEPTION else self.title

    @property
    def key(self) -> str:
        """The key of a record."""
        return f"{self.group}/{self.name}"


_ROWS = [
    Measure(
        "fid",
        "eval",
        "FID",
        "Frechet distance of the features, lower is better",
        better="lower",
        scale="log",
        digits=2,
        compared=True,
        places=("table", "terminal", "report", "card"),
    ),
    Measure(
        "inception_score",
        "eval",
        "IS",
        "over one split, higher is better",
        better="higher",
        scale="log",
        digits=2,
        compared=True,
        places=("table", "terminal", "report", "card"),
    ),
    Measure(
        "inception_score_10",
        "eval",
        "IS, ten splits",
        "mean over ten splits",
        better="higher",
        scale="log",
        digits=2,
        compared=True,
    ),
    Measure(
        "inception_score_10_std",
        "eval",
        "its standard deviation",
        "standard deviation over the ten splits",
        over_seeds=False,
    ),
    Measure(
        "kid",
        "eval",
        "KID",
        "kernel distance, unbiased (may be negative), lower is better",
        better="lower",
        digits=2,
        factor=1000.0,
        compared=True,
        places=("table", "report", "card"),
    ),
    Measure("kid_stderr", "eval", "its standard error", "its standard error over subsets", over_seeds=False),
    Measure(
        "precision",
        "eval",
        "precision",
        "share of generated images inside the real manifold, 0 to 1",
        better="higher",
        scale="logit",
        compared=True,
        places=("table", "report", "card"),
    ),
    Measure(
        "recall",
        "eval",
        "recall",
        "share of real images inside the generated manifold, 0 to 1; low: mode collapse",
        better="higher",
        scale="logit",
        compared=True,
        places=("table", "report", "card"),
    ),
    Measure(
        "density",
        "eval",
        "density",
        "of real neighbourhoods around generated images; may exceed 1",
        better="higher",
        compared=True,
        places=("report", "card"),
    ),
    Measure(
        "coverage",
        "eval",
        "coverage",
        "share of real neighbourhoods that hold a generated image, 0 to 1",
        better="higher",
        scale="logit",
        compared=True,
        places=("report", "card"),
    ),
    Measure(
        "fid_infinity",
        "eval",
        "FID-infinity",
        "FID extrapolated to infinitely many generated images; may be negative",
        better="lower",
        digits=2,
        compared=True,
        places=("card",),
    ),
    Measure(
        "sigma_mean",
        "posterior",
        "mean sigma",
        "mean of sigma of q(z, given x), absolute values, over images and dimensions",
        scale="log",
        compared=True,
        places=("terminal", "card"),
    ),
    Measure("sigma_std", "posterior", "std of sigma", "standard deviation of the same"),
    Measure("mu_mean", "posterior", "mean mu", "mean of mu over images and dimensions"),
    Measure("mu_std", "posterior", "std of mu", "standard deviation of the same"),
    Measure(
        "noise_share",
        "posterior",
        "noise share",
        "E[sigma^2] / (Var(mu) + E[sigma^2]), 0 to 1",
        scale="logit",
        compared=True,
        places=("table", "terminal", "report", "card"),
    ),
    Measure("active_units", "posterior", "active units", "dimensions with Var(mu) > 0.01", digits=0, places=("card",)),
    Measure("kl", "posterior", "KL", "KL(q(z, given x), prior), mean over images, nats"),
    Measure(
        "prior_kl",
        "posterior",
        "prior KL",
        "KL of the aggregated posterior's Gaussian fit to the prior, nats",
        better="lower",
        scale="log",
        places=("card",),
    ),
    Measure(
        "reconstruction_l1",
        "posterior",
        "reconstruction L1",
        "mean absolute pixel difference of decoded posterior samples, images in [-1, 1]",
        better="lower",
        scale="log",
        compared=True,
        places=("terminal", "card"),
    ),
]
_OF_CODES = (
    ("", "", "the codes mu"),
    ("mapped_", "mapped ", "the mapped codes M(mu)"),
)
for _prefix, _title, _whose in _OF_CODES:
    _ROWS += [
        Measure(
            f"{_prefix}mig",
            "mechanism",
            f"{_title}MIG",
            f"mutual information gap of {_whose}, 0 to 1: what the best dimension tells of a factor beyond the next",
            better="higher",
            compared=True,
        ),
        Measure(
            f"{_prefix}dci",
            "mechanism",
            f"{_title}DCI",
            f"DCI disentanglement of {_whose}, 0 to 1: whether each dimension is about one factor (random forests)",
            better="higher",
            compared=True,
        ),
        Measure(
            f"{_prefix}factorvae",
            "mechanism",
            f"{_title}FactorVAE score",
            f"of {_whose}, 0 to 1: accuracy of guessing the fixed factor from the dimension of least variance",
            better="higher",
            compared=True,
        ),
        Measure(
            f"{_prefix}total_correlation",
            "mechanism",
            f"{_title}total correlation",
            f"of a Gaussian fit to {'M(z)' if _prefix else 'z'}, z ~ q(z, given x), nats; 0: independent dimensions",
            better="lower",
            compared=True,
        ),
    ]
_ROWS += [
    Measure(
        "probe_accuracy",
        "mechanism",
        "probe accuracy",
        "held-out accuracy of a linear classifier of the labels on mu, where the data have no factors, 0 to 1",
        better="higher",
        scale="logit",
        compared=True,
    ),
    *(
        Measure(
            f"code_shift_{distance}px",
            "mechanism",
            f"code shift, {distance} px",
            f"squared distance between the codes of an image and of it moved by {distance} px, over that of two images",
            better="lower",
            scale="log",
            compared=True,
        )
        for distance in (1, 2, 4)
    ),
    *(
        Measure(
            f"moved_l1_{distance}px",
            "mechanism",
            f"moved L1, {distance} px",
            f"reconstruction L1 of images moved by {distance} px over that of the images; 1: no difference",
            better="lower",
            scale="log",
            compared=True,
        )
        for distance in (1, 2, 4)
    ),
    Measure(
        "mmd",
        "mechanism",
        "MMD^2",
        "between the aggregated posterior and the prior, Gaussian kernels of five scales, unbiased (may be negative)",
        better="lower",
        digits=2,
        factor=1000.0,
        compared=True,
    ),
    Measure(
        "mmd_floor",
        "mechanism",
        "its noise floor",
        "standard deviation of mmd for as many codes of the prior itself: what is within two of 0 is no mismatch",
        digits=2,
        factor=1000.0,
    ),
    Measure(
        "path_length",
        "mechanism",
        "path length",
        "perceptual path length of the decoder in the extractor's features: lower is smoother",
        better="lower",
        scale="log",
        digits=1,
        compared=True,
    ),
]
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ROWS}


def select(
    group: Group | None = None,
    *,
    place: Place | None = None,
    compared: bool | None = None,
    over_seeds: bool | None = None,
) -> Iterator[Measure]:
    """The measures with these properties, in the table's order."""
    for measure in _ROWS:
        wanted = (group, compared, over_seeds)
        own = (measure.group, measure.compared, measure.over_seeds)
        if all(w is None or w == o for w, o in zip(wanted, own, strict=True)) and place in (None, *measure.places):
            yield measure


def name_fid(extractors: Iterable[str]) -> str:
    """What distances in the features of these extractors are called: "FID", or "FID (EfficientNet-Lite0)", or both."""
    fid = MEASURES["fid"]
    return " and ".join(dict.fromkeys(fid.title_by(extractor) for extractor in extractors)) or fid.title
