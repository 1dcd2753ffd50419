"""A search draws settings for a sweep: in the same trials for every cell, and the first trials stay the first."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aaebench import app
from harness.commands import call
from harness.config import build_config
from harness.errors import InputError
from harness.record import RunFolder
from slurm.overview import build_table, describe_plan
from slurm.plan import build_plan, describe_change, require_no_fewer_trials
from slurm.search import Search
from slurm.status import read_statuses
from slurm.submission import Submission, create_folder
from slurm.submit import submit_sweep
from slurm.sweep import SHIPPED, Sweep, load_sweep
from tests.slurm.pretended import pretend

GRID = "grid: {variant: [aae, equal_linear], seed: [0, 1]}\nfixed: {preset: demo, epochs: 2}\n"
SEARCH = (
    "search: {trials: %d, seed: 7, learning_rate: {log_uniform: [1e-4, 1e-2]}, options.sigma: {choice: [linear, exp]}}"
)


def load(tmp_path: Path, text: str) -> Sweep:
    (tmp_path / "tiny.yaml").write_text(text)
    return load_sweep(tmp_path / "tiny.yaml")


def search(tmp_path: Path, trials: int) -> Sweep:
    return load(tmp_path, GRID + SEARCH % trials)


def draw(trials: int, distributions: dict[str, dict[str, list[Any]]], seed: int = 0) -> list[Any]:
    """The drawn values of one field, or of several, for each trial."""
    found = Search(trials, seed, distributions).draw()
    return [next(iter(trial.values())) if len(trial) == 1 else tuple(trial.values()) for trial in found]


class TestDraws:
    def test_the_logarithm_of_log_uniform_draws_is_uniform(self) -> None:
        rates = np.array(draw(500, {"learning_rate": {"log_uniform": [1e-4, 1e-1]}}))
        assert stats.kstest(np.log10(rates), stats.uniform(-4, 3).cdf).pvalue > 0.01
        assert rates.min() >= 1e-4
        assert rates.max() <= 1e-1

    def test_uniform_draws_are_uniform(self) -> None:
        values = draw(300, {"weight_decay": {"uniform": [1, 5]}})
        assert stats.kstest(values, stats.uniform(1, 4).cdf).pvalue > 0.01

    def test_integers_and_choices_are_drawn_with_both_ends_and_without_repeats(self) -> None:
        assert sorted(draw(4, {"latent_dim": {"integer": [2, 5]}})) == [2, 3, 4, 5]
        assert sorted(draw(3, {"optimizer": {"choice": ["adam", "adamw", "x"]}})) == ["adam", "adamw", "x"]

    def test_numbers_are_short_and_never_beyond_their_bounds(self) -> None:
        values = draw(50, {"learning_rate": {"log_uniform": [0.00123456, 0.1]}})
        assert all(value == 0.00123456 or float(f"{value:.3g}") == value for value in values)
        assert min(values) >= 0.00123456

    def test_fewer_trials_are_the_first_of_more(self) -> None:
        both = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}, "sigma": {"choice": ["linear", "exp"]}}
        assert draw(10, both) == draw(20, both)[:10]
        few = {"sigma": {"choice": [*range(12)]}}
        assert draw(6, few) == draw(12, few)[:6]

    def test_a_field_beside_it_changes_no_draw_and_another_seed_all(self) -> None:
        rate = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
        alone = draw(8, rate)
        assert alone == [first for first, _ in draw(8, {**rate, "ema_decay": {"uniform": [0.1, 0.9]}})]
        assert not set(alone) & set(draw(8, rate, seed=1))

    def test_the_draws_are_those_of_any_machine(self) -> None:
        """As `plan` has shown them, and as runs are named by."""
        assert draw(3, {"learning_rate": {"log_uniform": [1e-4, 3e-2]}}) == [0.0137, 0.00023, 0.00727]

    def test_more_trials_than_there_are_different_ones_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"tiny.yaml: search.trials = 3, but there are only 2 different draws"):
            load(tmp_path, f"{GRID}search: {{trials: 3, options.sigma: {{choice: [linear, exp]}}}}")


class TestRuns:
    def test_every_cell_of_the_grid_has_the_same_trials(self, tmp_path: Path) -> None:
        configs = search(tmp_path, 8).configs
        assert len(configs) == len({config.run_id for config in configs}) == 32
        cells: dict[Any, list[Any]] = {}
        for config in configs:
            drawn = (config.learning_rate, config.options.sigma)
            cells.setdefault((config.variant, config.seed), []).append(drawn)
        first, *others = cells.values()
        assert len(cells) == 4
        assert all(other == first for other in others)

    def test_a_trial_is_its_values_and_nothing_else(self, tmp_path: Path) -> None:
        config = search(tmp_path, 1).configs[0]
        drawn = {"learning_rate": config.learning_rate, "options.sigma": config.options.sigma}
        plain = build_config({"preset": "demo", "epochs": 2}, drawn)
        assert plain.run_id == config.run_id
        assert (plain.search, config.search) == (
            {},
            {"learning_rate": {"log_uniform": [1e-4, 1e-2]}, "options.sigma": {"choice": ["linear", "exp"]}},
        )

    def test_rules_of_exclude_see_drawn_values(self, tmp_path: Path) -> None:
        text = "grid: {variant: [aae, n_iter]}\nsearch: {trials: 3, latent_dim: {integer: [2, 4]}}\n"
        configs = load(tmp_path, f"{text}exclude: [{{variant: n_iter, latent_dim: 3}}]").configs
        assert sorted((c.variant, c.latent_dim) for c in configs) == [
            *(("aae", size) for size in (2, 3, 4)),
            *(("n_iter", size) for size in (2, 4)),
        ]

    def test_nested_options_may_be_drawn(self, tmp_path: Path) -> None:
        text = "grid: {variant: [latent_mapping]}\nsearch: {trials: 2, options: {depth: {integer: [1, 2]}}}"
        assert sorted(config.options.depth for config in load(tmp_path, text).configs) == [1, 2]

    def test_the_shipped_search_gives_the_papers_six_variants_eight_rates(self) -> None:
        configs = load_sweep(SHIPPED / "learning_rate.yaml").configs
        assert len(configs) == 48
        assert len({config.learning_rate for config in configs}) == 8


class TestMoreTrials:
    """Ten trials are run, and the file then asks for twenty."""

    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        out = tmp_path / "runs"
        sweep = search(tmp_path, 10)
        Submission(
            create_folder(out, "tiny"), "tiny", "local", sweep.content, [config.run_id for config in sweep.configs]
        ).save()
        for config in sweep.configs:
            pretend(RunFolder(out / config.run_id), config, "done", epoch=2)
        return out

    def test_only_the_new_ones_are_left_to_run(self, tmp_path: Path, out: Path) -> None:
        plan = build_plan(search(tmp_path, 20), out)
        assert len(plan.todo) == 40
        assert {config.run_id for config in plan.todo} == {config.run_id for config in search(tmp_path, 20).configs} - {
            config.run_id for config in search(tmp_path, 10).configs
        }

    def test_they_are_no_change_that_asks_for_a_word(self, tmp_path: Path, out: Path) -> None:
        assert describe_change(search(tmp_path, 20), out) == ""
        other = load(tmp_path, GRID + (SEARCH % 20).replace("seed: 7", "seed: 8"))
        assert "search.trials was 10, is 20; search.seed was 7, is 8" in describe_change(other, out)

    def test_fewer_than_were_run_are_refused(self, tmp_path: Path, out: Path) -> None:
        with pytest.raises(InputError, match=r"search.trials = 5 of the sweep tiny are fewer than the 10 whose runs"):
            require_no_fewer_trials(search(tmp_path, 5), out)
        with pytest.raises(InputError, match="fewer than the 10"):
            submit_sweep(search(tmp_path, 5), out, "local", 1, changed=True)
        require_no_fewer_trials(search(tmp_path, 10), out)
        require_no_fewer_trials(load(tmp_path, GRID + (SEARCH % 5).replace("seed: 7", "seed: 8")), out)

    def test_the_status_of_a_file_with_fewer_is_refused_as_its_plan_is(
        self, tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        search(tmp_path, 5)
        for command in ("plan", "status"):
            arguments = ["sweep", command, str(tmp_path / "tiny.yaml"), "--out", str(out)]
            assert call(lambda: app(arguments, result_action="return_value")) == 2  # noqa: B023
            assert "are fewer than the 10 whose runs" in " ".join(capfd.readouterr().err.split())

    def test_the_plan_shows_the_draws(self, tmp_path: Path, out: Path) -> None:
        sweep = search(tmp_path, 20)
        lines = describe_plan(build_plan(sweep, out)).splitlines()
        assert lines[1] == "search: 20 trials a cell, the same for all, drawn with seed 7"
        assert "  learning_rate: log_uniform [0.0001, 0.01]" in lines
        first = sweep.configs[0]
        assert ["1", str(first.learning_rate), first.options.sigma] in [line.split() for line in lines]

    def test_the_status_has_a_row_for_each_trial(self, tmp_path: Path, out: Path) -> None:
        assert len(build_table(read_statuses(search(tmp_path, 10), out)).rows) == 2 * 10 + 1


def test_a_finished_run_that_a_search_draws_becomes_its_trial(tmp_path: Path) -> None:
    """It was trained before anybody searched; nothing is trained again."""
    text = f"{GRID}search: {{trials: 2, options.sigma: {{choice: [linear, exp]}}}}"
    sweep, out = load(tmp_path, text), tmp_path / "runs"
    before = [config.model_copy(update={"search": {}, "sweep": "before"}) for config in sweep.configs]
    for config in before:
        pretend(RunFolder(out / config.run_id), config, "done", epoch=2)
    submit_sweep(sweep, out, "local", 1, changed=False)
    for config in sweep.configs:
        stored = RunFolder(out / config.run_id).read_config()
        assert (stored["search"], stored["sweep"]) == ({"options.sigma": {"choice": ["linear", "exp"]}}, "before")
    RunFolder(out / before[0].run_id).ask_for(before[0].model_dump(mode="json"))
    assert RunFolder(out / before[0].run_id).read_config()["search"], "who asks for it later undoes nothing"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("3", "search must map fields to distributions"),
        ("{learning_rate: {uniform: [0.1, 0.2]}}", "search.trials = None is no number of trials"),
        ("{trials: 0, learning_rate: {uniform: [0.1, 0.2]}}", "search.trials = 0 is no number of trials"),
        ("{trials: 1.5, learning_rate: {uniform: [0.1, 0.2]}}", "search.trials = 1.5 is no number of trials"),
        ("{trials: 2}", "search names no field to draw"),
        (
            "{trials: 2, seed: [0, 1], ema_decay: {uniform: [0.1, 0.2]}}",
            "search.seed = [0, 1] is the seed of the draws",
        ),
        ("{trials: 2, learning_rate: {log_uniform: [1e-2, 1e-4]}}", "the bounds [0.01, 0.0001] are reversed or equal"),
        ("{trials: 2, learning_rate: {uniform: [1, 1]}}", "the bounds [1, 1] are reversed or equal"),
        ("{trials: 2, learning_rate: {log_uniform: [0, 1e-4]}}", "log_uniform draws from above 0"),
        ("{trials: 2, learning_rate: {loguniform: [0.1, 1]}}", "unknown distribution 'loguniform'; did you mean log_"),
        ("{trials: 2, learning_rate: {uniform: [0.1]}}", "uniform takes two numbers, the smaller first, not [0.1]"),
        ("{trials: 2, latent_dim: {integer: [0.5, 2]}}", "integer takes two integers"),
        ("{trials: 2, options.sigma: {choice: []}}", "choice takes a list of values"),
        ("{trials: 2, learning_rate: [0.1, 1]}", "search.learning_rate must name one distribution"),
        ("{trials: 2, learning_rate: {uniform: [0, 1], choice: [1]}}", "must name one distribution"),
        ("{trials: 2, learning_rate: {uniform: [-3, -1]}}", "search.learning_rate, trial 1 drew -"),
        (
            "{trials: 3, latent_dim: {choice: [4, 0, 8]}}",
            "drew 0: latent_dim = 0: it must be a number from 1",
        ),
        ("{trials: 2, options.n: {integer: [1, 3]}}", "unknown option of aae 'n'"),
        ("{trials: 2, rate: {uniform: [0, 1]}}", "unknown field 'rate'"),
        ("{trials: 2, variant: {choice: [aae, vae]}}", "list what is trained, and on what, under grid"),
        ("{trials: 2, epochs: {integer: [1, 3]}}", "search.epochs changes nothing of the training"),
        ("{trials: 2, protocol: {choice: [paper, clean]}}", "search.protocol changes nothing of the training"),
    ],
)
def test_a_search_that_means_nothing_is_explained(tmp_path: Path, block: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, f"grid: {{variant: [aae], seed: [0]}}\nsearch: {block}")
    assert message in str(error.value)
    assert "tiny.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("grid: {learning_rate: [1e-4], seed: [0]}\n", "grid.learning_rate and by search"),
        ("grid: {seed: [0]}\nfixed: {learning_rate: 1e-4}\n", "search and by fixed"),
    ],
)
def test_a_drawn_field_is_set_nowhere_else(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(InputError, match=f"learning_rate is set twice, by {place}"):
        load(tmp_path, f"{text}search: {{trials: 2, learning_rate: {{uniform: [0.1, 0.2]}}}}")


def test_rounding_leaves_every_draw_of_a_wide_search_its_own_run() -> None:
    rates = draw(200, {"learning_rate": {"log_uniform": [1e-4, 1e-1]}})
    assert len(set(rates)) == 200
    assert math.isclose(min(rates), 1e-4, rel_tol=0.2)
