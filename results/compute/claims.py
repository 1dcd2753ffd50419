"""The paper's claims, each a rule over the data: supported, refuted, undecided, not enough data. C1 to C7 are about
its numbers, M1 to M6 about mechanisms that it speaks of and did not measure.

The paper trained each cell once. A rule here needs two seeds at least, and its chance of a false "supported" and of a
false "refuted" is 5 % at most wherever the truth lies, for the claim as a whole: its tests are one-sided, planned
before the data, and adjusted for how many of them must hold (docs/calibration.md shows it by simulation, of C1 to C7).
Every rule looks at prior samples of finished runs at the reported epoch, in one setting per data set and size: of those
with the paper's networks and training, where there are any, that with the most epochs, then the most seeds; M5 and M6
in the first of this order that has what they ask for.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd

from results.compute.baseline import compare_with, find_baselines
from results.compute.findings import (
    COLLAPSED,
    EVERYWHERE,
    FLAT,
    NEARLY,
    TURN,
    Data,
    Evidence,
    find_collapse,
    find_exceptions,
    find_flattening,
    find_harm,
    find_help,
    find_most_help,
)
from results.compute.mechanism_findings import (
    FEWEST_RATES,
    MOST_NOISE,
    find_cures,
    find_interactions,
    find_mapped_disentanglement,
    find_nearer,
    find_steadier,
    find_tuned_difference,
)
from results.compute.statistics import ALPHA, MARGIN, adjust_partial
from results.compute.summary import SETTING, primary_rows
from results.read.labels import LABEL_COLUMNS, label_settings
from results.read.schema import Column

NOTHING = "no run that it could be judged by (of a variant with several options those with the paper's)"
Verdict = Literal["supported", "refuted", "undecided", "not enough data"]

CLAIMS_COLUMNS = [
    Column("claim", "string", "C1 to C7, M1 to M6"),
    Column("statement", "string", "what the paper says"),
    Column("rule", "string", "what decides here"),
    Column("verdict", "string", "supported, refuted, undecided, or not enough data"),
    Column("errors", "string", "its chances of a false verdict, and why they are held"),
    Column("p_supported", "number", "that the claim is true: below 0.05 it is supported; empty without enough data"),
    Column("p_refuted", "number", "that it is false: below 0.05 it is refuted"),
    Column("evidence", "string", "the numbers behind it, from claims_evidence.csv"),
    Column("protocol", "string", "the protocol that it was judged under; each is judged by itself"),
    Column("extractor", "string", "the extractor, likewise"),
    Column("settings", "string", "shared: by all variants, the paper's if any; tuned: each has its best trial's"),
]
EVIDENCE = [
    Column("claim", "string", "C1 to C7, M1 to M6"),
    Column("dataset", "string", "data set"),
    Column("image_size", "integer", "px"),
    Column("epochs", "integer", "training budget"),
    *LABEL_COLUMNS,
    Column("protocol_id", "string", "of the scores"),
    Column("variant", "string", "whom it concerns"),
    Column("quantity", "string", "what was measured"),
    Column("n", "integer", "seeds"),
    Column("estimate", "number", "mean over seeds"),
    Column("low", "number", "lower end of the 95 % interval"),
    Column("high", "number", "upper end of the 95 % interval"),
    Column("p_holm", "number", "where a difference was tested"),
    Column("p_for", "number", "one-sided, of being for the claim, by itself"),
    Column("p_against", "number", "one-sided, of being against it"),
    Column("finding", "string", "for or against (at 0.05, by itself), open, or missing (not enough data)"),
    Column("text", "string", "the same in words"),
    Column("protocol", "string", "the protocol that it was judged under; each is judged by itself"),
    Column("extractor", "string", "the extractor, likewise"),
    Column("settings", "string", "shared: by all variants, the paper's if any; tuned: each has its best trial's"),
]


@dataclass(frozen=True)
class Decision:
    """A verdict, with the p of the claim being true (for "supported") and false (for "refuted")."""

    verdict: Verdict
    p_supported: float = np.nan
    p_refuted: float = np.nan


@dataclass(frozen=True)
class Claim:
    """`find` yields the evidence; `combine` makes a verdict of it; `errors` says why its error rates are held."""

    name: str
    statement: str
    rule: str
    errors: str
    find: Callable[[Data], Evidence]
    combine: Callable[[Evidence], Decision]


def judge_claims(runs: pd.DataFrame, reported: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CLAIMS_COLUMNS and EVIDENCE: the verdicts, and a row for each number behind them."""
    data = _choose_settings(runs, reported)
    verdicts, evidence = [], []
    for claim in CLAIMS:
        found = [{"claim": claim.name, **row} for row in claim.find(data)]
        text = "; ".join(str(row["text"]) for row in found) or NOTHING
        said = {"claim": claim.name, "statement": claim.statement, "rule": claim.rule, "errors": claim.errors}
        verdicts.append({**said, **asdict(claim.combine(found)), "evidence": text})
        evidence += found
    return (
        pd.DataFrame(verdicts, columns=[column.name for column in CLAIMS_COLUMNS]),
        pd.DataFrame(evidence, columns=[column.name for column in EVIDENCE]),
    )


def _choose_settings(runs: pd.DataFrame, reported: pd.DataFrame) -> Data:
    prior = reported[reported["sampler"] == "prior"]
    sizes = prior.groupby(SETTING, dropna=False, sort=False).size().rename("runs").reset_index()
    sizes["papers"] = [not label for label in label_settings(sizes)]
    ordered = sizes.sort_values(["papers", "epochs", "runs"], ascending=False, kind="stable")
    main = ordered.drop_duplicates(["dataset", "image_size"])[SETTING]
    done = primary_rows(runs[runs["state"] == "done"])
    chosen = prior.merge(main, on=SETTING)
    comparisons = compare_with(chosen, find_baselines(chosen), ["fid"], cautious=True)
    return Data(done.merge(main, on=SETTING), chosen, comparisons, ordered[SETTING].merge(prior))


# How evidence becomes a verdict: p values of "supported" and of "refuted" for the claim as a whole, each valid at the
# border of its truth however the data sets depend on each other (partial conjunctions, Benjamini & Heller 2008).


def every(evidence: Evidence) -> Decision:
    """All must be for it to be supported, each at 5 %; one counterexample refutes, at 5 % over all of them."""
    p_for, p_against = _tested(evidence)
    return _decide(adjust_partial(p_for, len(p_for)), adjust_partial(p_against, 1), len(p_for) > 0)


def most(evidence: Evidence) -> Decision:
    """More than half for, or more than half against."""
    p_for, p_against = _tested(evidence)
    half = len(p_for) // 2 + 1
    return _decide(adjust_partial(p_for, half), adjust_partial(p_against, half), len(p_for) > 0)


def most_of_each(*variants: str) -> Callable[[Evidence], Decision]:
    """`most` for each of these variants; one of them against refutes, at 5 % over all of them."""

    def combine(evidence: Evidence) -> Decision:
        decisions = [most([row for row in evidence if row["variant"] == variant]) for variant in variants]
        told = [decision for decision in decisions if decision.verdict != "not enough data"]
        refuted = adjust_partial([decision.p_refuted for decision in told], 1)
        supported = max((decision.p_supported for decision in told), default=1.0)
        decision = _decide(supported, refuted, bool(told))
        missing = len(told) < len(variants) and decision.verdict != "refuted"
        return Decision("not enough data") if missing else decision

    return combine


def complete(evidence: Evidence) -> Decision:
    """As `every`, and nothing may be missing unless it is refuted already."""
    decision = every(evidence)
    if decision.verdict != "refuted" and any(row["finding"] == "missing" for row in evidence):
        return Decision("not enough data")
    return decision


def nearly_all(evidence: Evidence) -> Decision:
    """At least NEARLY of the comparisons for; refuted if more than the rest are against. Two variants a setting."""
    p_for, p_against = _tested(evidence)
    needed = math.ceil(NEARLY * len(p_for))
    enough = len(p_for) >= 2 * EVERYWHERE
    return _decide(adjust_partial(p_for, needed), adjust_partial(p_against, len(p_for) - needed + 1), enough)


def each_somewhere(evidence: Evidence) -> Decision:
    """For every variant one finding for, at 5 % over its settings. One variant with all against refutes, at 5 % over
    the variants.
    """
    missing = {row["variant"] for row in evidence if row["finding"] == "missing"}
    variants = {row["variant"] for row in evidence} - missing
    own = {variant: _tested([row for row in evidence if row["variant"] == variant]) for variant in variants}
    somewhere = max((adjust_partial(p_for, 1) for p_for, _ in own.values()), default=1.0)
    everywhere = adjust_partial([adjust_partial(p_against, len(p_against)) for _, p_against in own.values()], 1)
    decision = _decide(somewhere, everywhere, bool(own))
    return Decision("not enough data") if missing and decision.verdict != "refuted" else decision


def _tested(evidence: Evidence) -> tuple[list[float], list[float]]:
    rows = [row for row in evidence if row["finding"] != "missing"]
    return [cast("float", row["p_for"]) for row in rows], [cast("float", row["p_against"]) for row in rows]


def _decide(p_supported: float, p_refuted: float, enough: bool) -> Decision:
    if not enough:
        return Decision("not enough data")
    verdict: Verdict = "refuted" if p_refuted < ALPHA else "supported" if p_supported < ALPHA else "undecided"
    return Decision(verdict, p_supported, p_refuted)


ONE = "False verdicts: 5 % at most, a one-sided test each way."
ALL = (
    "False support: 5 % at most, since all must hold and each is tested at 5 %. False refutation: 5 % at most, since "
    "the counterexamples are adjusted for their number."
)
SOME = "False verdicts: 5 % at most each way: that so many hold is tested at once (partial conjunction)."
CLAIMS = [
    Claim(
        "C1",
        "sigma converges to 0 in the AAE: the encoder becomes deterministic",
        f"Per data set: the AAE's noise share at the end is below {COLLAPSED} (for) or above it (against, if it "
        f"trained for {TURN} epochs or more). One data set against refutes; all for support.",
        ALL,
        find_collapse,
        every,
    ),
    Claim(
        "C2",
        f"FID falls fast until about epoch {TURN}, then flattens or rises",
        f"Per variant and data set trained for {2 * TURN} epochs or more: FID's mean fall an epoch after epoch {TURN}, "
        f"over that before, is below {FLAT} (for) or above (against). More than half decide.",
        SOME,
        find_flattening,
        most,
    ),
    Claim(
        "C3",
        "KLD-loss helps on CIFAR-10",
        "kld_loss has a lower FID than the AAE on cifar10 (for), or a higher one (against).",
        ONE,
        find_help("kld_loss", "cifar10"),
        every,
    ),
    Claim(
        "C4",
        "n-iter helps most on MNIST and Fashion-MNIST",
        "On both, n_iter has a lower FID than the AAE, and no other of the paper's variants has one that is lower than "
        f"n_iter's by {MARGIN:.0%} or more (for); or n_iter has a higher one than the AAE, or another variant a lower "
        "one than n_iter (against). One finding against refutes; all for support.",
        ALL,
        find_most_help,
        complete,
    ),
    Claim(
        "C5",
        "latent-mapping helps on EMNIST",
        "latent_mapping has a lower FID than the AAE on emnist (for), or a higher one (against).",
        ONE,
        find_help("latent_mapping", "emnist"),
        every,
    ),
    Claim(
        "C6",
        "feature and equal-linear hurt FID nearly everywhere",
        f"Over {EVERYWHERE} data settings or more: their FID is higher than the AAE's (for) in at least {NEARLY:.0%} "
        f"of the comparisons; lower (against) in more than {1 - NEARLY:.0%} refutes.",
        SOME,
        find_harm,
        nearly_all,
    ),
    Claim(
        "C7",
        "no variant is better on every data set",
        f"Over {EVERYWHERE} data settings or more: each of the five has a higher FID than the AAE in some setting "
        "(for); one that has a lower FID in all of them refutes.",
        "False support: 5 % at most, each variant at 5 % over its settings. False refutation: 5 % at most, over the "
        "variants, each of which must be better in every setting.",
        find_exceptions,
        each_somewhere,
    ),
    Claim(
        "M1",
        "mapping the codes disentangles them",
        "Per data set with known factors: MIG, DCI and FactorVAE score of latent_mapping's mapped codes are above "
        "those of the AAE's codes, and their total correlation is below (for), or the other way round (against). More "
        "than half decide.",
        SOME,
        find_mapped_disentanglement,
        most,
    ),
    Claim(
        "M2",
        "KLD-loss and n-iter bring the aggregated posterior nearer to the prior",
        "Of each of the two, per data set: the KL of the aggregated posterior's Gaussian fit to the prior, and the MMD "
        "between them where mechanisms were measured and the AAE's is above its noise floor, are below the AAE's (for) "
        "or above (against); kld_loss's below those of the AAE with its sigma head, where there is one. More than half "
        "decide of each; both must hold, and one against refutes.",
        "False support: 5 % at most, since both must hold. False refutation: 5 % at most, adjusted for the two.",
        find_nearer,
        most_of_each("kld_loss", "n_iter"),
    ),
    Claim(
        "M3",
        "the feature-wise error makes the model insensitive to translation",
        "Per data set and distance of 1, 2, 4 px: feature's code shift, and its reconstruction error of moved images "
        "over that of unmoved ones, are below the AAE's (for) or above (against). More than half decide.",
        SOME,
        find_steadier,
        most,
    ),
    Claim(
        "M4",
        "BatchNorm hurts: without it, each at its own best learning rate, FID is lower",
        f"Per data set where both were trained at the same {FEWEST_RATES} learning rates or more: equal_linear's FID "
        "is below the AAE's (for) or above (against), each at the one of these that its first seed chooses, judged on "
        "the other seeds. One data set against refutes; all for support.",
        ALL,
        find_tuned_difference,
        every,
    ),
    Claim(
        "M5",
        "the collapse of sigma harms the samples",
        f"Per data set and remedy that lifts the AAE's noise share from below {COLLAPSED} to between that and "
        f"{MOST_NOISE}: FID is below that without the remedy (for) or above (against). More than half decide.",
        SOME,
        find_cures,
        most,
    ),
    Claim(
        "M6",
        "with the collapse cured, the techniques help more than without",
        f"Per technique, data set and remedy that lifts the AAE's noise share from below {COLLAPSED} to that or more: "
        "the technique's FID over the AAE's is lower with the remedy on both than without it (for), or higher "
        "(against), seed by seed. More than half decide.",
        SOME,
        find_interactions,
        most,
    ),
]
