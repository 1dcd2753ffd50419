"""Everything that is computed of a collection, once: what the CSVs, the tables and the report show."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from results.compute.across_datasets import ACROSS, build_across
from results.compute.agreement import AGREEMENT, build_agreement
from results.compute.baseline import BEST, COMPARISONS, build_best, build_comparisons
from results.compute.claims import CLAIMS_COLUMNS, EVIDENCE, judge_claims
from results.compute.collapse import COLLAPSE, build_collapse_table
from results.compute.dose import DOSE, DOSE_RESPONSE, build_doses, build_responses
from results.compute.gap import GAP, build_gap
from results.compute.looks import Look, apply_looks
from results.compute.odd_runs import find_odd_runs, list_as_problems
from results.compute.references import REFERENCES, build_references
from results.compute.spread import SPREAD, build_spread
from results.compute.statistics import MARGIN
from results.compute.summary import CELL, SUMMARY, EpochRule, reported_rows, summarise
from results.compute.tables import PaperTable, build_tables
from results.compute.tuning import BUDGETS, TUNED, Tuning, tune
from results.read.collect import Collection
from results.read.schema import NO_SEARCH, PROBLEMS, PROTOCOLS, PROVENANCE, RUNS, Column

JUDGED = [*dict.fromkeys([*CELL, "run_id", "seed", "state", "epoch", "sampling_seed", "fid", "sigma_mean"])]
CAMPAIGN = ["protocol", "extractor"]  # evaluations of one way to score; its ids differ by data set and size

# The files of a collection, in the order in which they are explained: name -> columns, and what a row is.
FILES: dict[str, tuple[list[Column], str]] = {
    "runs": (RUNS, "a run, evaluation and sampler"),
    "summary": (SUMMARY, "a cell (all that changes the numbers, but the seed) at the reported epoch, over its seeds"),
    "comparisons": (COMPARISONS, "a cell, and a measure in which it is compared with the AAE, seed by seed"),
    "across_datasets": (ACROSS, "a variant, and a measure in which it is compared with the AAE over all data sets"),
    "best": (BEST, "a cell of prior samples, and the chance that it is the best of its setting"),
    "references": (REFERENCES, "a setting and a reference to read its scores by: noise floors, reconstructions"),
    "tuned": (TUNED, "a variant of a search, and the best of its trials"),
    "budgets": (
        BUDGETS,
        "a variant of a search, and what the best of k trials is expected to be",
    ),
    "claims": (CLAIMS_COLUMNS, "a claim of the paper, and its verdict"),
    "claims_evidence": (EVIDENCE, "a number behind a verdict"),
    "collapse": (COLLAPSE, "a run and evaluation: the posterior's diagnostics"),
    "dose": (DOSE, "a run of a family: a number, as a remedy's strength, at three levels or more, all else equal"),
    "dose_response": (DOSE_RESPONSE, "a family, and a measure of the samples: how it goes with the noise share"),
    "gap": (GAP, "a cell that was scored under both protocols, paper and clean"),
    "agreement": (AGREEMENT, "a cell that two extractors have seen, and what each says of it"),
    "spread": (SPREAD, "a source of spread, and how much of it there is"),
    "problems": (
        PROBLEMS,
        "a folder that is unfinished, failed or damaged, or a run far off its cell's others",
    ),
    "provenance": (PROVENANCE, "a run: where, when and with what it ran"),
    "protocols": (PROTOCOLS, "a field of a protocol's definition"),
}


@dataclass(frozen=True)
class Analysis:
    """`frames`: the tables of FILES but runs, by name; `tables`: the paper's; `reported`: rows behind the summary."""

    collection: Collection
    rule: EpochRule
    reported: pd.DataFrame
    frames: dict[str, pd.DataFrame]
    tables: list[PaperTable]

    @property
    def summary(self) -> pd.DataFrame:
        return self.frames["summary"]

    @property
    def comparisons(self) -> pd.DataFrame:
        return self.frames["comparisons"]


def analyse(
    collection: Collection,
    rule: EpochRule = "last",
    margin: float = MARGIN,
    looks: Sequence[Look] = (),
    *,
    every_reading: Collection | None = None,
) -> Analysis:
    """All tables of a collection; nothing in them mixes protocols.

    Args: every_reading: where readings were chosen among, the collection with all of them, which `agreement` compares.
    Raises: InputError if the rule asks for evaluations that there are not.
    """
    runs = collection.runs
    reported, summary = reported_rows(runs, rule), summarise(runs, rule)
    references = build_references(collection, summary, reported)
    # A search's trials are settings that nobody chose: what the search found is compared, in their stead.
    shared = reported[reported["search"] == NO_SEARCH]
    comparisons = apply_looks(build_comparisons(shared, margin), looks)
    odd = list_as_problems(find_odd_runs(reported, margin), collection.paths)
    best = build_best(shared)
    tuning = tune(collection, reported, margin)
    claims, evidence = _judge(runs.loc[runs["search"] == NO_SEARCH, JUDGED], shared, tuning)
    doses = build_doses(shared)
    frames = {
        "summary": summary,
        "comparisons": comparisons,
        "across_datasets": build_across(comparisons),
        "best": best,
        "references": references,
        "tuned": tuning.tuned,
        "budgets": tuning.budgets,
        "claims": claims,
        "claims_evidence": evidence,
        "collapse": build_collapse_table(runs),
        "dose": doses,
        "dose_response": build_responses(doses),
        "gap": build_gap(summary),
        "agreement": build_agreement(_every_reading(every_reading, rule, shared), margin),
        "spread": build_spread(runs),
        "problems": pd.concat([collection.problems, odd], ignore_index=True) if len(odd) else collection.problems,
        "provenance": collection.provenance,
        "protocols": _protocols(collection),
    }
    tables = build_tables(summary[summary["search"] == NO_SEARCH], best, references)
    return Analysis(collection, rule, reported, frames, tables)


def _every_reading(collection: Collection | None, rule: EpochRule, shown: pd.DataFrame) -> pd.DataFrame:
    if collection is None or not collection.runs["extractor"].nunique() > 1:
        return shown
    reported = reported_rows(collection.runs, rule)
    return reported[reported["search"] == NO_SEARCH]


def _judge(runs: pd.DataFrame, reported: pd.DataFrame, tuning: Tuning) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The claims, for each way to score by itself: at a setting that all variants share, and each at its own best."""
    verdicts, evidence = [], []
    for settings, of_all, at_end in (("shared", runs, reported), ("tuned", tuning.runs, tuning.reported)):
        ways = at_end[CAMPAIGN].drop_duplicates()
        if ways.empty and settings == "shared":
            ways = pd.DataFrame([["", ""]], columns=CAMPAIGN)
        for way in ways.to_dict(orient="records"):
            parts = [frame.merge(pd.DataFrame([way])) for frame in (of_all[JUDGED], at_end)]
            for found, frames in zip(judge_claims(*parts), (verdicts, evidence), strict=True):
                frames.append(found.assign(settings=settings, **{name: way[name] for name in CAMPAIGN}))
    return pd.concat(verdicts, ignore_index=True), pd.concat(evidence, ignore_index=True)


def _protocols(collection: Collection) -> pd.DataFrame:
    rows = [
        {"protocol_id": name, "field": field, "value": str(value)}
        for name, definition in sorted(collection.protocols.items())
        for field, value in definition.items()
    ]
    return pd.DataFrame(rows, columns=[column.name for column in PROTOCOLS])
