"""`aaebench sweep extend`: a sweep file with more seeds, for what is not decided yet."""

import json
import math
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import yaml
from cyclopts import Parameter

from harness.errors import InputError
from harness.fields import FIELDS
from harness.files import write_text
from harness.record import RunFolder
from harness.terminal import say
from results.commands import load_collection
from results.compute.analysis import analyse
from results.compute.baseline import BASELINE, judge
from results.compute.looks import DECIDED, MEASURE, Look, compute_level, load_looks, name_comparison, record_look
from results.compute.statistics import MARGIN, require_margin
from results.compute.summary import CELL, SETTING
from results.read.collect import Collection
from results.read.protocols import choose_protocol
from results.show.write import MANIFEST

OF_THE_REQUEST = ("sweep", "search")  # who asked for a run, and how: not what was trained
ALWAYS_NAMED = ("variant", "dataset", "seed", "epochs", "learning_rate")


def extend_command(
    report: Path,
    /,
    *,
    at_most: int,
    until_decided: Annotated[bool, Parameter(negative="")] = False,
    margin: float = MARGIN,
    protocol: str | None = None,
    out: Path = Path("more-seeds.yaml"),
) -> None:
    """Write a sweep file with more seeds: of every cell, or of those only whose FID against the AAE is undecided.

    With --until-decided it looks at the runs, and each look is recorded beside them (looks.jsonl) and paid for: a
    comparison is then tested at a part of the 5 %, and all looks together spend no more. Prints the file; submit it
    with aaebench sweep submit FILE, and look again when its runs are done.

    Parameters
    ----------
    report
        A folder that aaebench collect or report wrote, or a folder of run folders.
    at_most
        Seeds that no cell will exceed. With --until-decided the same at every look.
    until_decided
        Only the undecided comparisons, each with as many seeds as it seems to take.
    margin
        A fraction of the AAE's mean within which a variant counts as equivalent.
    protocol
        The protocol (paper, clean), extractor or protocol id to judge by, where there are several.
    out
        The sweep file.
    """
    require_margin(margin)
    if at_most < 2:
        raise InputError(f"--at-most {at_most}: a verdict takes two seeds at least, as in --at-most 8")
    runs = find_run_folder(report)
    collection = choose_protocol(load_collection(runs), protocol)
    looks = load_looks(runs)
    analysis = analyse(collection, margin=margin, looks=looks)
    comparisons = analysis.comparisons
    fid = comparisons[(comparisons["measure"] == MEASURE) & (comparisons["sampler"] == "prior")]
    if fid.empty:
        raise InputError(f"{runs} holds no variant beside an AAE of its setting; there is nothing to decide")
    if until_decided:
        fid = look_at(fid, looks, runs, at_most)
        fid = fid[~fid["verdict"].isin(DECIDED)]
    targets = count_seeds(fid, analysis.reported, at_most, until_decided)
    configs = list_missing(targets, analysis.reported, collection)
    if not configs:
        say("nothing to add: all is decided, or has its seeds already")
        return
    try:
        write_text(out, render_sweep(out.stem, configs))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}; choose another with --out") from error
    say(f"{len(configs)} runs: {len(fid)} comparisons, {len(targets)} cells")
    print(out)


def find_run_folder(report: Path) -> Path:
    """The folder of runs that a collection was made of, or the folder itself. Raises: InputError if it is gone."""
    manifest = report / MANIFEST
    if not manifest.is_file():
        return report
    try:
        runs = Path(json.loads(manifest.read_text(encoding="utf-8"))["runs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {manifest}: {error}; name the folder of runs instead") from error
    if not runs.is_dir():
        raise InputError(f"{report} was made of {runs}, which is not there any more; name the folder of runs instead")
    return runs


def look_at(fid: pd.DataFrame, looks: list[Look], runs: Path, at_most: int) -> pd.DataFrame:
    """The comparisons as this look judges them, recorded unless the last look saw the same.

    Raises: InputError if earlier looks were planned for another number of seeds.
    """
    if looks and looks[-1].at_most != at_most:
        raise InputError(
            f"the looks at {runs} are planned for at most {looks[-1].at_most} seeds, by which they spend their levels; "
            f"--at-most {looks[-1].at_most}"
        )
    seen = {}
    for _, row in fid.iterrows():
        n, name = min(row["n"], row["n_baseline"]), name_comparison(row)
        if n < 2:
            continue  # nothing is tested: no look
        past = [look.comparisons[name] for look in looks if name in look.comparisons]
        level = row["level"] if past else compute_level(n, [], at_most)
        numbers = (row["difference"], row["p_holm"], row["p_equivalent"], n, level)
        verdict = str(row["verdict"]) if past else judge(MEASURE, *numbers)
        seen[name] = {"n": int(n), "level": float(level), "verdict": verdict}
    if not looks or looks[-1].comparisons != seen:
        record_look(runs, Look(datetime.now(UTC).isoformat(timespec="seconds"), at_most, seen))
    names = [name_comparison(row) for _, row in fid.iterrows()]
    return fid.assign(verdict=[seen[name]["verdict"] if name in seen else "n = 1" for name in names])


def count_seeds(fid: pd.DataFrame, reported: pd.DataFrame, at_most: int, until_decided: bool) -> pd.DataFrame:
    """CELL and `target`: the seeds that each cell of these comparisons, and the AAE beside them, shall have."""
    more = fid["more_seeds"].fillna(math.inf).clip(lower=1) if until_decided else math.inf
    wanted = (fid[["n", "n_baseline"]].min(axis=1) + more).clip(upper=at_most)
    targets = fid[[*CELL, "baseline_options"]].assign(target=wanted)
    targets["target"] = targets.groupby(SETTING, dropna=False)["target"].transform("max")  # as far as the AAE goes
    baseline = targets.assign(variant=BASELINE, options=targets["baseline_options"])
    both = pd.concat([targets, baseline], ignore_index=True).drop(columns="baseline_options")
    return both.groupby(CELL, dropna=False, sort=False)["target"].max().reset_index()


def list_missing(targets: pd.DataFrame, reported: pd.DataFrame, collection: Collection) -> list[dict[str, Any]]:
    """The configurations of the runs that the cells lack, each as that of a run of its cell but for the seed.

    Seeds that the cell's setting has already come first, so that runs go in pairs.
    """
    configs = []
    for _, setting in targets.groupby(SETTING, dropna=False, sort=False):
        rows = reported.merge(setting, on=CELL)
        order = sorted(rows["seed"].unique()) if len(rows) else []
        candidates = [*order, *(seed for seed in range(10_000) if seed not in order)]
        for _, cell in rows.groupby(CELL, dropna=False, sort=False):
            own, target = set(cell["seed"]), int(cell["target"].iloc[0])
            config = RunFolder(collection.paths[cell["run_id"].iloc[0]]).read_config()
            new = [seed for seed in candidates if seed not in own][: max(target - len(own), 0)]
            configs += [config | {"seed": int(seed)} for seed in new]
    return configs


def render_sweep(name: str, configs: list[dict[str, Any]]) -> str:
    """A sweep file of just these runs: what they share is fixed, the rest a list of joint settings. It leaves out what
    is at its default, but for what people look for in it.
    """
    configs = [{key: config[key] for key in config if _belongs_into_a_sweep(key, config)} for config in configs]
    values = defaultdict(list)
    for config in configs:
        for key, value in config.items():
            values[key].append(json.dumps(value, sort_keys=True))
    fixed = {k for k, texts in values.items() if len(texts) == len(configs) and len(set(texts)) == 1 and k != "seed"}
    content = {
        "name": name,
        "grid": {"run": [{key: value for key, value in config.items() if key not in fixed} for config in configs]},
        "fixed": {key: value for key, value in configs[0].items() if key in fixed},
    }
    return yaml.dump(
        content, Dumper=_WithoutAliases, default_flow_style=None, width=120, sort_keys=False, allow_unicode=True
    )


def _belongs_into_a_sweep(name: str, config: dict[str, Any]) -> bool:
    if name in OF_THE_REQUEST:
        return False
    return name in ALWAYS_NAMED or config[name] != FIELDS[name].default_among(config)


class _WithoutAliases(yaml.SafeDumper):
    """Writes a value again where it occurs again, as people do: &id001 and *id001 are hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
