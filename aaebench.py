"""The command line: the commands of the three packages, imported only when they run."""

import sys
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from harness.options import STRICT
from slurm.commands import plan as plan_runs

app = App(
    name="aaebench",
    default_parameter=STRICT,
    help="Benchmark adversarial autoencoders: train variants, score them, measure the collapse of the posterior.",
)
app.command("harness.commands:run", name="run", help="Train, evaluate and record one run.")
app.command("harness.commands:show", name="show", help="Print what a run's id stands for, and where the run is.")
app.command("slurm.commands:evaluate", name="evaluate", help="Score finished runs again, under any protocol.")
app.command(
    "harness.commands:track_command",
    name="track",
    help="Send finished runs to trackers: TensorBoard, MLflow, Weights & Biases, ...",
)
app.command("harness.commands:stage", name="stage", help="Bring data sets and weights to the cache.")
app.command(
    "harness.commands:score",
    name="score",
    help="Score any images against any others, as JSON. Several GPUs: accelerate launch -m aaebench score ...",
)
app.command(
    "harness.model_commands:export",
    name="export",
    help="""Write a trained model on its own: weights, configuration and a card, in one folder.

    Prints the folder. It holds all that encoding and decoding need and loads wherever aaebench is installed, in Python:

    import harness; model = harness.load("FOLDER"); images = model.decode(model.sample_prior(64))
    """,
)
app.command(
    "harness.model_commands:sample",
    name="sample",
    help="""Draw images from a trained model: a folder of PNG files, and a picture of the first 64; or a picture alone.

    Prints the folder, or the picture. BatchNorm normalises as the run's protocol does when it scores; the first 64 of
    10,000 images are those of -n 64.

    To score them: aaebench score --real REAL --fake FOLDER
    """,
)
app.command("results.commands:collect_command", name="collect", help="Collect run folders into tables.")
app.command("results.commands:report_command", name="report", help="Write report.html, tables and figures.")
app.command(
    "results.tune:tune_command", name="tune", help="Write a sweep that trains the best trials of a search again."
)
app.command(
    "results.compare:compare_command",
    name="compare",
    help="""What changed between two collections, beyond noise, and what the second one lacks.

    A regression is a score that is worse by more than the threshold and, with two seeds or more, beyond noise.

    Exit status: 0 if B has all that A has, and no regression; 1 if it has one, or lacks cells, seeds or scores of A, or
    scores of either are not finite; 2 if the two cannot be compared.
    """,
)

sweep = App(name="sweep", help="Many runs from one YAML file.")


@sweep.command(name="plan", help="Show what is left to do, what it costs, and what its seeds will find.")
@wraps(plan_runs)
def plan(path: Path, /, *, out: Path = Path("runs"), **arguments: Any) -> None:
    from results.compute.seeds import describe_planned
    from slurm.sweep import find_sweep, load_sweep

    plan_runs(path, out=out, **arguments)
    loaded = load_sweep(find_sweep(path))
    if loaded.search is None:  # trials are chosen from; what is chosen gets its seeds from `aaebench tune`
        cells = ((config.dataset, f"{config.variant} {config.options}", config.seed) for config in loaded.configs)
        for line in describe_planned(out, cells):
            print(line)


sweep.command("slurm.commands:submit", name="submit", help="Submit what is missing, to SLURM or here.")
sweep.command("slurm.commands:status", name="status", help="Show how far it is, and why runs failed.")
sweep.command("slurm.commands:cancel", name="cancel", help="Cancel its jobs.")
sweep.command("slurm.commands:retry", name="retry", help="Submit failed and stale runs again.")
sweep.command("results.extend:extend_command", name="extend", help="Write a sweep with more seeds where they decide.")
sweep.command("slurm.commands:logs", name="logs", help="Print the logs of a run.")
app.command(sweep)
app.command("slurm.commands:doctor", name="doctor", help="Check what makes jobs fail at night.")
new = App(name="new", help="Write a first version of your own.")
new.command("harness.new:variant", name="variant", help="Write a variant of your own, with comments, and its test.")
app.command(new)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a script that completes commands, options and files in this shell.

    bash: aaebench completion bash > ~/.local/share/bash-completion/completions/aaebench

    zsh: aaebench completion zsh > FOLDER/_cyclopts_aaebench, where FOLDER is one of $fpath

    fish: aaebench completion fish > ~/.config/fish/completions/aaebench.fish

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    print(app.generate_completion(shell=shell))


@app.command
def demo(
    *,
    out: Path = Path("demo"),
    dataset: str = "digits",
    epochs: Annotated[int | None, Parameter(show_default=False)] = None,
) -> None:
    """Train, score and compare the paper's six variants, two seeds each, end to end, in a few minutes.

    Writes OUT/runs/, the tables of `aaebench collect`, figures/ and report.html, and prints the summary. Scores use the
    data's own classifier (extractor `domain`). Run it again to resume.

    Parameters
    ----------
    out
        The folder for everything.
    dataset
        digits (embedded), or another with labels, as fashion_mnist.
    epochs
        Passes over the training set. [default: 40]
    """
    # ruff: noqa: PLC0415
    from harness.allocation import count_cores
    from harness.data.staging import stage_dataset
    from harness.evaluation.classifier import load_classifier
    from results.commands import load_collection, print_problems, print_summary
    from results.compute.analysis import analyse
    from results.show.report import write_report
    from results.show.write import write_collection, writing
    from slurm.local import require_all_done, run_locally
    from slurm.sweep import SHIPPED, load_sweep

    chosen = {"dataset": dataset} | ({} if epochs is None else {"epochs": epochs})
    configs = load_sweep(SHIPPED / "demo.yaml", **chosen).configs
    stage_dataset(dataset, configs[0].image_size)
    load_classifier(dataset, configs[0].image_size)  # trained here, where its progress shows, if it has to be
    outcomes = run_locally(configs, out / "runs", at_once=min(2, count_cores()))
    collection = load_collection(out / "runs").select({config.run_id for config in configs})
    analysis = analyse(collection)
    with writing(out, {"runs": str((out / "runs").resolve()), "sweep": "demo"}) as output:
        write_collection(analysis, output)
        write_report(analysis, output)
    print_problems(collection.problems)
    print_summary(analysis.summary)
    require_all_done(outcomes)
    print(out / "report.html")
    print(out)


def main() -> None:
    from harness.commands import call

    sys.exit(call(app))


if __name__ == "__main__":
    main()
