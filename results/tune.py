"""`aaebench tune`: a sweep file that trains the best trial of each variant again, with fresh seeds."""

from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import write_text
from harness.record import RunFolder
from harness.terminal import say
from results.commands import load_collection
from results.compute.summary import EpochRule, reported_rows
from results.compute.trials import METHOD, PLACE
from results.compute.tuning import FEWEST_TRIALS, Tuning, select_like, tune
from results.extend import find_run_folder, render_sweep
from results.read.collect import Collection
from results.read.labels import name_place
from results.read.protocols import choose_protocol


def tune_command(
    report: Path,
    /,
    *,
    seeds: int = 5,
    protocol: str | None = None,
    epoch: EpochRule = "last",
    out: Path = Path("tuned.yaml"),
) -> None:
    """Write a sweep file that trains the best trial of each variant again, with seeds that no search has seen.

    The best is chosen among the trials that all variants of a search have, by FID on held-out sampling seeds where the
    runs have them (sampling_seeds: 2 or more). aaebench collect and report then compare the variants on fresh seeds,
    and judge the claims at equal budgets. Prints the file; submit it with aaebench sweep submit FILE.

    Parameters
    ----------
    report
        A folder that aaebench collect or report wrote, or a folder of run folders.
    seeds
        Fresh seeds of each variant, the same for all; those that it has already count.
    protocol
        The protocol (paper, clean), extractor or protocol id to choose by, where there are several.
    epoch
        The epoch that is reported of each run: last, or held-out.
    out
        The sweep file.
    """
    if seeds < 2:
        raise InputError(f"--seeds {seeds}: a verdict takes two seeds at least, as in --seeds 5")
    runs = find_run_folder(report)
    collection = choose_protocol(load_collection(runs), protocol)
    tuning = tune(collection, reported_rows(collection.runs, epoch))
    require_trials(tuning, runs)
    configs = list_missing(tuning, collection, seeds)
    if not configs:
        say(f"nothing to add: every best trial has {seeds} fresh seeds already")
        return
    try:
        write_text(out, render_sweep(out.stem, configs))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}; choose another with --out") from error
    for _, row in tuning.tuned.iterrows():
        edge = f", at the edge of the search in {row['edge']}" if row["edge"] else ""
        say(f"{row['variant']} on {name_place(row)}: {row['draw']}, the best of {row['budget']}{edge}")
    say(f"{len(configs)} runs")
    print(out)


def require_trials(tuning: Tuning, runs: Path) -> None:
    """Raises: InputError unless every variant of every search has a best trial, of two at least."""
    if tuning.tuned.empty:
        raise InputError(f"{runs} holds no finished trial of a search; see `search:` in sweep files")
    lacking = tuning.tuned[tuning.tuned["draw"].isna()]
    if lacking.empty:
        return
    row = lacking.iloc[0]
    over, place = int(row["trials"]), select_like(tuning.tuned, row, PLACE)
    why = f"{over} of its trials are over ({row['failed']} failed, {row['waiting']} not over)"
    if over >= FEWEST_TRIALS > row["budget"]:
        why += f", and {row['budget']} that all variants of the search have"
    advice = "finish the search first"
    if row["budget"] >= FEWEST_TRIALS:
        advice = "all of these failed: give sweep retry, or search elsewhere"
    elif place["trials"].max() < FEWEST_TRIALS and not place["waiting"].any():
        advice = "ask for trials: 2 or more, and run them"
    raise InputError(
        f"{row['variant']} on {name_place(row)}: {why}; the best of fewer than {FEWEST_TRIALS} is no choice: {advice}"
    )


def list_missing(tuning: Tuning, collection: Collection, seeds: int) -> list[dict[str, Any]]:
    """The configurations that the best trials lack fresh seeds of, each as that of the trial but for the seed.

    The seeds of a search are the same for all its variants, so that runs go in pairs.
    """
    configs, fresh = [], tuning.reported
    for _, searched in tuning.tuned.groupby(PLACE, dropna=False, sort=False):
        trials = select_like(tuning.trials, searched.iloc[0], PLACE)
        seen = set(trials["seed"])
        wanted = [seed for seed in range(len(seen) + seeds) if seed not in seen][:seeds]
        for _, row in searched.iterrows():
            own = select_like(fresh, row, [*METHOD, *PLACE])
            trial = select_like(trials, row, [*METHOD, "draw"]).iloc[0]
            config = RunFolder(collection.paths[trial["run_id"]]).read_config()
            config |= {"epochs": int(row["epochs"]), "search": {}}
            missing = [seed for seed in wanted if seed not in set(own["seed"])]
            configs += [config | {"seed": seed} for seed in missing[: max(seeds - own["seed"].nunique(), 0)]]
    return configs
