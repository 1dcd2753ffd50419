"""The paper's claims C1 to C7, each a rule over the data: supported, refuted, not distinguishable, not enough data.

The paper trained each cell once. A rule here needs two seeds at least, and calls a difference one only if the paired t
test, Holm-adjusted over its family, says so (baseline.py). Every rule looks at prior samples of finished runs at the
reported epoch, in one setting per data set and size: of those with the paper's networks and training, where there are
any, that with the most epochs, then the most seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import pandas as pd

from results.compute.findings import (
    COLLAPSED,
    EVERYWHERE,
    FLAT,
    NEARLY,
    TURN,
    Data,
    Evidence,
    Finding,
    find_collapse,
    find_exceptions,
    find_flattening,
    find_harm,
    find_help,
    find_most_help,
)
from results.compute.summary import SETTING, primary_rows
from results.read.labels import LABEL_COLUMNS, label_settings
from results.read.schema import Column

Verdict = Literal["supported", "refuted", "not distinguishable", "not enough data"]

CLAIMS_COLUMNS = [
    Column("claim", "string", "C1 to C7"),
    Column("statement", "string", "what the paper says"),
    Column("rule", "string", "what decides here"),
    Column("verdict", "string", "supported, refuted, not distinguishable, or not enough data"),
    Column("evidence", "string", "the numbers behind it, from claims_evidence.csv"),
    Column("protocol", "string", "the protocol that it was judged under; each is judged by itself"),
    Column("extractor", "string", "the extractor, likewise"),
]
EVIDENCE = [
    Column("claim", "string", "C1 to C7"),
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
    Column("finding", "string", "for, against, open (indistinguishable) or missing (not enough data)"),
    Column("text", "string", "the same in words"),
    Column("protocol", "string", "the protocol that it was judged under; each is judged by itself"),
    Column("extractor", "string", "the extractor, likewise"),
]


@dataclass(frozen=True)
class Claim:
    """`find` yields the evidence; `combine` makes a verdict of its findings."""

    name: str
    statement: str
    rule: str
    find: Callable[[Data], Evidence]
    combine: Callable[[Sequence[Finding]], Verdict]


def judge_claims(
    runs: pd.DataFrame, reported: pd.DataFrame, comparisons: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CLAIMS_COLUMNS and EVIDENCE: the verdicts, and a row for each number behind them."""
    data = _choose_settings(runs, reported, comparisons)
    verdicts, evidence = [], []
    for claim in CLAIMS:
        found = [{"claim": claim.name, **row} for row in claim.find(data)]
        findings: list[Finding] = [cast("Finding", row["finding"]) for row in found]
        text = "; ".join(str(row["text"]) for row in found) or "no run that it could be judged by"
        values = (claim.name, claim.statement, claim.rule, claim.combine(findings), text)
        verdicts.append(dict(zip(("claim", "statement", "rule", "verdict", "evidence"), values, strict=True)))
        evidence += found
    return (
        pd.DataFrame(verdicts, columns=[column.name for column in CLAIMS_COLUMNS]),
        pd.DataFrame(evidence, columns=[column.name for column in EVIDENCE]),
    )


def _choose_settings(runs: pd.DataFrame, reported: pd.DataFrame, comparisons: pd.DataFrame) -> Data:
    prior = reported[reported["sampler"] == "prior"]
    sizes = prior.groupby(SETTING, dropna=False, sort=False).size().rename("runs").reset_index()
    sizes["papers"] = [not label for label in label_settings(sizes)]
    ordered = sizes.sort_values(["papers", "epochs", "runs"], ascending=False, kind="stable")
    main = ordered.drop_duplicates(["dataset", "image_size"])[SETTING]
    done = primary_rows(runs[runs["state"] == "done"])
    return Data(done.merge(main, on=SETTING), prior.merge(main, on=SETTING), comparisons.merge(main, on=SETTING))


# How findings become a verdict.


def every(findings: Sequence[Finding]) -> Verdict:
    """One counterexample refutes; all must be for it to be supported."""
    decided = [finding for finding in findings if finding != "missing"]
    if not decided:
        return "not enough data"
    if "against" in decided:
        return "refuted"
    return "supported" if set(decided) == {"for"} else "not distinguishable"


def most(findings: Sequence[Finding]) -> Verdict:
    """More than half for, or more than half against."""
    decided = [finding for finding in findings if finding != "missing"]
    if not decided:
        return "not enough data"
    if 2 * decided.count("for") > len(decided):
        return "supported"
    return "refuted" if 2 * decided.count("against") > len(decided) else "not distinguishable"


def complete(findings: Sequence[Finding]) -> Verdict:
    """As `every`, and nothing may be missing unless it is refuted already."""
    if "missing" in findings and "against" not in findings:
        return "not enough data"
    return every(findings)


def nearly_all(findings: Sequence[Finding]) -> Verdict:
    """At least NEARLY of the comparisons for; refuted if more than the rest are against. Two variants a setting."""
    decided = [finding for finding in findings if finding != "missing"]
    if len(decided) < 2 * EVERYWHERE:
        return "not enough data"
    if decided.count("for") >= NEARLY * len(decided):
        return "supported"
    return "refuted" if decided.count("against") > (1 - NEARLY) * len(decided) else "not distinguishable"


CLAIMS = [
    Claim(
        "C1",
        "sigma converges to 0 in the AAE: the encoder becomes deterministic",
        f"Per data set, the 95 % interval of the AAE's noise share at the end lies below {COLLAPSED} (for) or above it "
        f"(against, if it trained for {TURN} epochs or more). One data set against refutes; all for support.",
        find_collapse,
        every,
    ),
    Claim(
        "C2",
        f"FID falls fast until about epoch {TURN}, then flattens or rises",
        f"Per variant and data set trained for {2 * TURN} epochs or more: FID's mean fall an epoch after epoch {TURN}, "
        f"over that before, lies below {FLAT} (for) or above (against) with its 95 % interval. More than half decide.",
        find_flattening,
        most,
    ),
    Claim(
        "C3",
        "KLD-loss helps on CIFAR-10",
        "kld_loss has a lower FID than the AAE on cifar10 (for), or a higher one (against).",
        find_help("kld_loss", "cifar10"),
        every,
    ),
    Claim(
        "C4",
        "n-iter helps most on MNIST and Fashion-MNIST",
        "On both, n_iter has a lower FID than the AAE (for), or a higher one, or another of the paper's variants has a "
        "lower FID than n_iter (against). One finding against refutes; all for support.",
        find_most_help,
        complete,
    ),
    Claim(
        "C5",
        "latent-mapping helps on EMNIST",
        "latent_mapping has a lower FID than the AAE on emnist (for), or a higher one (against).",
        find_help("latent_mapping", "emnist"),
        every,
    ),
    Claim(
        "C6",
        "feature and equal-linear hurt FID nearly everywhere",
        f"Over {EVERYWHERE} data settings or more: their FID is higher than the AAE's (for) in at least {NEARLY:.0%} "
        f"of the comparisons; lower (against) in more than {1 - NEARLY:.0%} refutes.",
        find_harm,
        nearly_all,
    ),
    Claim(
        "C7",
        "no variant is better on every data set",
        f"Over {EVERYWHERE} data settings or more: each of the five has a higher FID than the AAE in some setting "
        "(for); one that has a lower FID in all of them refutes.",
        find_exceptions,
        complete,
    ),
]
