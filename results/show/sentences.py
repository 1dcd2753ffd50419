"""What a report says first: sentences made from the data."""

import json
from collections.abc import Iterator

import pandas as pd

from harness.measures import name_fid
from results.compute.analysis import Analysis
from results.compute.baseline import BASELINE, mark_best
from results.compute.summary import RULES, SETTING
from results.read.labels import NEUTRAL, add_label, label_cells, label_settings, name_place, name_setting
from results.read.schema import NO_SEARCH


def describe(analysis: Analysis) -> list[str]:
    """What was run, what it shows, what is missing; plain text."""
    return [
        *_what_ran(analysis),
        *_best(analysis),
        *_against_baseline(analysis),
        *_equal_budgets(analysis),
        *_collapse(analysis),
        *_claims(analysis),
    ]


def join(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"


def _what_ran(analysis: Analysis) -> Iterator[str]:
    provenance, problems = analysis.collection.provenance, analysis.collection.problems
    every = analysis.collection.runs.drop_duplicates("run_id")
    runs = every[every["search"] == NO_SEARCH]
    settings = runs[["dataset", "image_size", *NEUTRAL]].drop_duplicates()
    places = [name_setting(f"{row['dataset']} at {row['image_size']} px", row) for _, row in settings.iterrows()]
    done = int((provenance["state"] == "done").sum())
    variants, seeds = every["variant"].nunique(), every["seed"].nunique()
    trials = every[every["search"] != NO_SEARCH]
    if len(trials):
        fields = sorted({field for text in trials["search"].unique() for field in json.loads(str(text))})
        yield f"{count(len(trials), 'run')} are trials of a search over {join(fields)}: see equal budgets."
        places = places or ["searched settings alone"]
    if places:
        yield (
            f"{count(len(provenance), 'run')} of {count(variants, 'variant')} on {join(places)}, "
            f"with {count(seeds, 'seed')}: {done} finished."
        )
    others = problems["state"].value_counts()
    if len(others):
        parts = [f"{n} {state}" for state, n in others.items()]
        yield f"Not in the averages: {join(parts)}; the section on failures says why, and how far they came."
    if len(analysis.summary) and (analysis.summary["n"] == 1).all():
        yield "Every cell has a single seed (n = 1): nothing below says whether a difference is more than chance."
    if done:
        training, evaluation, gpu = provenance[["training_hours", "evaluation_hours", "gpu_hours"]].sum()
        gpu_hours = f", {gpu:.1f} GPU-hours" if gpu else ", all on CPUs"
        yield (
            f"Reported is {RULES[analysis.rule]}. Training took {duration(training)} and evaluation "
            f"{duration(evaluation)}{gpu_hours}."
        )
    if (every["extractor"] == "domain").any():
        yield (
            "Scores are taken in the features of a small classifier of the data's own labels (extractor domain): a "
            "scale of its own, on which variants compare with each other, and nothing with numbers printed elsewhere."
        )


def _best(analysis: Analysis) -> Iterator[str]:
    cells = analysis.summary[(analysis.summary["sampler"] == "prior") & analysis.summary["fid_mean"].notna()]
    cells = cells[cells["search"] == NO_SEARCH]
    marks = mark_best(analysis.frames["best"], cells, "fid")
    for _, setting in cells.groupby([name for name in SETTING if name != "sampler"], dropna=False, sort=False):
        if len(setting) < 2:
            continue
        named = setting.assign(cell=label_cells(setting), mark=marks.loc[setting.index]).sort_values("fid_mean")
        first = named.iloc[0]
        place = f"{first['dataset']} at {first['image_size']} px, {count(int(first['epochs']), 'epoch')}"
        text = f"{name_setting(place, first)}: {first['cell']} has the lowest FID, {first['fid_mean']:.2f}"
        others = named.iloc[1:]
        equal = [f"{row['cell']} ({row['fid_mean']:.2f})" for _, row in others[others["mark"] != ""].iterrows()]
        if first["n"] == 1:
            yield f"{text}, from one seed."
        elif first["mark"] == "best":
            yield f"{text}, and no other of them may be the best."
        elif equal:
            yield f"{text}; the best may also be {join(equal)}."
        else:
            yield f"{text}."


def _against_baseline(analysis: Analysis) -> Iterator[str]:
    table = analysis.comparisons
    table = table[(table["measure"] == "fid") & (table["sampler"] == "prior")]
    if table.empty:
        yield "No variant was trained beside an AAE of the same setting: there is no comparison with the baseline."
        return
    tested = table[table["n"] >= 2]
    if tested.empty:
        return
    named = tested.assign(cell=label_cells(tested), place=[name_place(row) for _, row in tested.iterrows()])
    if named["place"].nunique() > 1:
        named["cell"] += " on " + named["place"]
    parts = []
    for verdict in ("better", "worse", "equivalent", "undecided"):
        rows = named[named["verdict"] == verdict]
        if len(rows):
            names = [f"{row['cell']} ({row['difference']:+.2f})" for _, row in rows.head(8).iterrows()]
            more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
            parts.append(f"{verdict}: {', '.join(names)}{more}")
    fid = name_fid(tested["extractor"])
    yield f"{fid} against the {BASELINE} (moderated t test of its logarithm, Holm, 0.05): {'; '.join(parts)}."


def _equal_budgets(analysis: Analysis) -> Iterator[str]:
    tuned = analysis.frames["tuned"]
    for (dataset, _), search in tuned.groupby(["dataset", "protocol_id"], sort=False):
        known = search[search["fid_mean"].notna()].sort_values("fid_mean")
        if known.empty:
            yield f"The best trials on {dataset} have no score beside the one that chose them: see aaebench tune."
            continue
        budget = known["budget"].iloc[0]
        called = zip(label_cells(known), known["fid_mean"], known["fresh_failed"], strict=True)
        names = [f"{cell} {mean:.2f}" + (f" (fresh seeds that failed: {n})" if n else "") for cell, mean, n in called]
        fid = name_fid(search["extractor"])
        yield f"{fid} at equal budgets on {dataset}, each variant at its best of {budget} trials: {join(names)}."
        if edges := list(search.loc[search["edge"].fillna("") != "", "variant"]):
            yield f"The best trial of {join(edges)} lies at the edge of the search on {dataset}: search further."


def _collapse(analysis: Analysis) -> Iterator[str]:
    table = analysis.frames["collapse"]
    drawn = analysis.collection.runs.loc[analysis.collection.runs["search"] != NO_SEARCH, "run_id"]
    done = table[(table["state"] == "done") & ~table["run_id"].isin(drawn)]
    if done.empty:
        return
    done = done.assign(label=label_settings(done))
    done["called"] = [add_label(*pair) for pair in zip(done["variant"], done["label"], strict=True)]
    last = done[done["epoch"] == done.groupby("run_id")["epoch"].transform("max")]
    verdicts = last["collapse"].value_counts()
    collapsed = last[last["collapse"] == "variance"]["called"].value_counts()
    text = f"{int(verdicts.get('variance', 0))} of {len(last)} finished runs end in variance collapse"
    text += f" ({join([f'{name} {n}' for name, n in collapsed.items()])})" if len(collapsed) else ""
    yield f"{text}, {int(verdicts.get('posterior', 0))} in posterior collapse."
    for label, end in last[last["variant"] == BASELINE].groupby("label", sort=False):
        first = done[done["run_id"].isin(end["run_id"]) & (done["epoch"] == 0)]
        before = f"{first['sigma_mean'].mean():.3f} before training to " if len(first) else ""
        whose = add_label("The AAE's mean sigma", str(label))
        yield (
            f"{whose} goes from {before}{end['sigma_mean'].mean():.3f} at the end; noise is then "
            f"{end['noise_share'].mean():.1%} of its codes' variance."
        )


def _claims(analysis: Analysis) -> Iterator[str]:
    for settings, called in (("shared", "The paper's claims"), ("tuned", "The same at equal budgets")):
        claims = analysis.frames["claims"]
        claims, parts = claims[claims["settings"] == settings], []
        for verdict in ("supported", "refuted", "undecided", "not enough data"):
            names: pd.Series = claims.loc[claims["verdict"] == verdict, "claim"]
            if len(names):
                parts.append(f"{verdict}: {', '.join(names)}")
        if parts:
            yield f"{called}: {'; '.join(parts)}."
