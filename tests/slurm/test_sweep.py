"""A sweep file is a grid of run configurations, checked before anything runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from slurm.request import SlurmOptions
from slurm.sweep import SHIPPED, load_sweep


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return path


def test_the_grid_is_the_product_of_its_axes_joint_settings_included(tmp_path: Path) -> None:
    configs = load_sweep(
        write(
            tmp_path,
            """
            name: tiny
            grid:
              variant: [aae, n_iter]
              seed: [0, 1]
              data: [{dataset: mnist, image_size: 32}, {dataset: ffhq, image_size: 64}]
            fixed: {epochs: 5}
            exclude: [{variant: n_iter, dataset: ffhq}]
            """,
        )
    ).configs
    points = [(c.variant, c.seed, c.dataset, c.image_size, c.batch_size) for c in configs]
    assert points == [
        ("aae", 0, "mnist", 32, 1024),
        ("aae", 0, "ffhq", 64, 256),
        ("aae", 1, "mnist", 32, 1024),
        ("aae", 1, "ffhq", 64, 256),
        ("n_iter", 0, "mnist", 32, 1024),
        ("n_iter", 1, "mnist", 32, 1024),
    ]
    assert {(c.epochs, c.sweep) for c in configs} == {(5, "tiny")}


def test_a_sweep_over_a_variants_option_is_one_line(tmp_path: Path) -> None:
    configs = load_sweep(write(tmp_path, "grid: {variant: [latent_mapping], options.depth: [0, 1, 2, 4, 8]}")).configs
    assert [config.options.depth for config in configs] == [0, 1, 2, 4, 8]


def test_overrides_win_over_fixed_fields(tmp_path: Path) -> None:
    path = write(tmp_path, "grid: {seed: [0]}\nfixed: {epochs: 5, dataset: mnist}")
    assert [c.epochs for c in load_sweep(path, epochs=2).configs] == [2]


def test_the_demo_is_the_papers_six_variants_with_two_seeds() -> None:
    configs = load_sweep(SHIPPED / "demo.yaml").configs
    assert len({config.variant for config in configs}) == 6
    assert len(configs) == len({config.run_id for config in configs}) == 12
    assert {config.dataset for config in configs} == {"digits"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grids: {seed: [0]}", "unknown key 'grids'; did you mean grid?"),
        ("name: x", "grid must map each field to a list"),
        ("grid: {seed: 3}", "grid must map each field to a list"),
        ("grid: {seed: []}", "grid must map each field to a list"),
        ("grid: {variant: [aae, aee]}", "grid.variant, value 'aee': unknown variant 'aee'; did you mean vae or aae?"),
        ("grid: {seeds: [0]}", "unknown field 'seeds'; did you mean seed or sweep?"),
        ("grid: {options.n: [1], variant: [aae]}", "unknown option of aae 'n'"),
        ("grid: {seed: [0, 0]}", "twice"),
        ("grid: {variant: [n_iter], options.n: [2, 3], other: [{}, {options.n: 3}]}", "twice"),
        ("grid: {seed: [0]}\nexclude: [{seed: 0}]", "every point of the grid is excluded"),
        ("- 1", "no mapping"),
        ("grid: {seed: [0]}\nexclude: 3", "exclude must list mappings"),
        ("grid: {seed: [0]}\nexclude: [3]", "exclude must list mappings"),
        ("grid: {seed: [0]}\nexclude: [{varient: aae}]", "unknown field of the sweep 'varient'"),
        ("grid: {seed: [0]}\nfixed: [1]", "fixed must map fields"),
        ("grid: {1: [0]}", "grid must map each field"),
        ("grid: {variant: [aae, [b]]}", "variant = ['b']"),
        (
            "grid: {architecture: [mlp, conv], image_size: [28, 32]}",
            "image_size = 28 does not suit architecture = conv",
        ),
    ],
)
def test_bad_sweeps_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_sweep(write(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_sweep_names_each_of_its_fields_in_one_place(path: Path) -> None:
    assert load_sweep(path).name == path.stem


def test_the_shipped_dose_holds_sigma_by_every_remedy_and_moves_it_by_rates_and_dimensions() -> None:
    configs = load_sweep(SHIPPED / "dose.yaml").configs
    doses = [config for config in configs if config.seed == 0]

    def levels(name: str, sigma: str) -> list[float]:
        found = {float(getattr(config.options, name)) for config in doses if config.options.sigma == sigma}
        return sorted(found - {0.0})

    assert levels("sigma_floor", "linear") == [0.05, 0.1, 0.2, 0.5, 1.0]
    assert levels("sigma_penalty", "linear") == [0.1, 1.0, 10.0]
    assert levels("kl_weight", "exp") == levels("log_variance_penalty", "exp") == [0.001, 0.01, 0.1, 1.0]
    assert sorted({config.learning_rate for config in doses}) == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert sorted({config.latent_dim for config in doses}) == [2, 5, 10, 20, 64]
    assert all(config.mechanisms for config in configs)
    assert {config.seed for config in configs} == {0, 1, 2}
    assert len(configs) == 3 * len(doses)


class TestExclusions:
    """A rule leaves out the runs that have its values, however the two are spelt."""

    @pytest.mark.parametrize(
        ("axis", "rule", "left"),
        [
            ("learning_rate: [0.0001, 0.001]", "learning_rate: 1e-4", [1e-3]),
            ("learning_rate: [1.0e-4, 0.001]", "learning_rate: 0.1E-3", [1e-3]),
            ("mixed_precision: [no, bf16]", 'mixed_precision: "no"', ["bf16"]),
            ("mixed_precision: ['no', bf16]", "mixed_precision: no", ["bf16"]),
            ("batch_size: [64, 128]", "batch_size: 064", [128]),
            ("betas: [[0.5, 0.9], [0.9, 0.999]]", "betas: [5e-1, 0.90]", [(0.9, 0.999)]),
        ],
    )
    def test_values_are_compared_as_runs_have_them(self, tmp_path: Path, axis: str, rule: str, left: list[Any]) -> None:
        configs = load_sweep(write(tmp_path, f"grid:\n  {axis}\nexclude: [{{{rule}}}]")).configs
        assert [getattr(config, axis.partition(":")[0]) for config in configs] == left

    def test_options_are_fields_however_they_are_written(self, tmp_path: Path) -> None:
        text = "grid: {variant: [n_iter], options.n: [2, 3]}\nexclude: [{options: {n: 3}}]"
        assert [config.options.n for config in load_sweep(write(tmp_path, text)).configs] == [2]

    def test_presets_are_compared_by_name_and_what_they_set_by_value(self, tmp_path: Path) -> None:
        text = "grid: {system: [{variant: vae}, {preset: kld_feature}, {preset: all_four}]}\n"
        (vae, feature) = load_sweep(write(tmp_path, f"{text}exclude: [{{preset: all_four}}]")).configs
        assert (vae.variant, feature.options.depth) == ("vae", 0)
        (vae,) = load_sweep(write(tmp_path, f"{text}exclude: [{{variant: combined}}]")).configs
        assert vae.variant == "vae"

    def test_a_field_that_a_point_leaves_open_has_its_default(self, tmp_path: Path) -> None:
        text = "grid: {system: [{}, {learning_rate: 0.1}]}\nexclude: [{learning_rate: 1e-4}]"
        assert [config.learning_rate for config in load_sweep(write(tmp_path, text)).configs] == [0.1]

    def test_what_no_run_accepts_can_be_left_out(self, tmp_path: Path) -> None:
        text = (
            "grid: {architecture: [mlp, conv], image_size: [28, 32]}\nexclude: [{architecture: conv, image_size: 28}]"
        )
        assert len(load_sweep(write(tmp_path, text)).configs) == 3

    @pytest.mark.parametrize(
        ("rule", "why"),
        [
            ("{seed: 7}", "no point has seed = 7"),
            ("{variant: aee}", "no point has variant = 'aee'"),
            ("{seed: 0, variant: gan}", "no point has variant = 'gan'"),
            ("{seed: 1, variant: vae, epochs: 9}", "no point has epochs = 9"),
            ("{options.n: 3, variant: aae}", "no point has all of these values"),
        ],
    )
    def test_a_rule_that_leaves_nothing_out_is_refused(self, tmp_path: Path, rule: str, why: str) -> None:
        text = (
            "grid: {seed: [0, 1], system: [{variant: aae}, {variant: vae}, {variant: n_iter, options.n: 3}]}\n"
            f"fixed: {{epochs: 5}}\nexclude: [{rule}]"
        )
        with pytest.raises(InputError, match=f"matches nothing of the grid: {why}"):
            load_sweep(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: {epochs: [1, 2]}\nfixed: {epochs: 5}", "epochs is set twice, by grid.epochs and by fixed"),
        (
            "grid: {seed: [0], data: [{seed: 1, dataset: mnist}]}",
            "seed is set twice, by grid.seed and by grid.data",
        ),
        (
            "grid: {variant: [n_iter], options.n: [2]}\nfixed: {options: {n: 3}}",
            "options.n is set twice, by grid.options.n and by fixed",
        ),
        ("grid: {seed: [0]}\nfixed: {options: {sigma: exp}, options.sigma: exp}", "options.sigma is set twice in"),
        ("grid: {seed: [0]}\ngrid: {seed: [1]}", "the key 'grid' is given twice"),
        ("grid: {seed: [0], seed: [1]}", "the key 'seed' is given twice"),
        ("name: 2026\ngrid: {seed: [0]}", "name = 2026 must be up to 64 letters"),
        ("name: [a]\ngrid: {seed: [0]}", "name = ['a'] must be up to 64 letters"),
        ("grid: {seed: [9223372036854775808]}", "beyond 2^53"),
        ("grid: {seed: [1:30]}", "seed = '1:30'"),
        ("grid: {learning_rate: [.inf]}", "no number that a field can have"),
        ("grid: {seed: [0]}\nslurm: {nodes: 1e9}", "slurm.nodes = 1000000000.0"),
        ("grid: {seed: [0]}\nslurm: {nodes: 1000000000}", "slurm.nodes = 1000000000"),
        ("grid: {seed: [0]}\nslurm: {mem_gb: .inf}", "no number that a field can have"),
        ("grid: {seed: [0]}\nslurm: {gpus_per_node: true}", "slurm.gpus_per_node = True"),
        ("grid: {seed: [0]}\nslurm: {cpus_per_task: '4'}", "slurm.cpus_per_task = '4'"),
        ("grid: {seed: [0]}\nslurm: {signal_delay_s: 600, timeout_min: 5}", "leaves nothing of timeout_min = 5"),
        ("grid: {seed: [0]}\nslurm: {sbatch: {nodelist: [a, b]}}", "slurm.sbatch.nodelist = ['a', 'b'] must be a word"),
        ('grid: {seed: [0]}\nslurm: {sbatch: {comment: "a\\nb"}}', "slurm.sbatch.comment = 'a\\nb' must be a word"),
        ("grid: {seed: [0]}\nslurm: {sbatch: {p: gpu}}", "sbatch.p is no long option of sbatch"),
        ("grid: {seed: [0]}\nslurm: {sbatch: {'mail type': END}}", "sbatch.mail type is no long option of sbatch"),
        ("grid: {seed: [0]}\nslurm: {sbatch: [a]}", "slurm must map options to values"),
        ('grid: {seed: [0]}\nslurm: {partition: "gpu\\n#SBATCH --uid=0"}', "slurm.partition = "),
        ("grid: {seed: [0], data: [{1: 2}]}", "1 in {1: 2} names no field"),
        (f"grid: {{{', '.join(f'{axis}: {[*range(100)]}' for axis in 'abcd')}}}", "the grid has 100000000 points"),
        ("grid: {seed: [0]}\nslurm: [1]", "slurm must map options to values"),
        ("grid: {seed: [0]}\nexclude: [{}]", "exclude must list mappings"),
    ],
)
def test_what_a_sweep_file_cannot_mean_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_sweep(write(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize(("written", "name"), [("yes", "yes"), ("2026-11-28", "2026-11-28"), ("'017'", "017")])
def test_names_are_strings(tmp_path: Path, written: str, name: str) -> None:
    assert load_sweep(write(tmp_path, f"name: {written}\ngrid: {{seed: [0]}}")).name == name


def test_what_a_sweep_names_may_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of protocols and weights, and own variants, are sought there and then in the working folder."""
    beside, here = tmp_path / "sweeps", tmp_path / "here"
    for folder in (beside, here):
        folder.mkdir()
    (beside / "mine.yaml").write_text("normalisation: running\nextractor: domain")
    (beside / "weights.pt").write_bytes(b"a script")
    (here / "others.yaml").write_text("normalisation: batch")
    (beside / "beside_the_sweep.py").write_text("from variants.aae import AAE\n\n\nclass Own(AAE):\n    pass\n")
    (beside / "own.yaml").write_text(
        "grid: {variant: ['beside_the_sweep:Own'], seed: [0]}\nfixed: {protocol: [mine.yaml, others.yaml, clean]}"
    )
    (beside / "scripted.yaml").write_text("grid: {seed: [0]}\nfixed: {extractor: weights.pt}")
    monkeypatch.chdir(here)
    (config,) = load_sweep(Path("../sweeps/own.yaml")).configs
    assert [protocol.name for protocol in config.protocol] == ["mine", "others", "clean"]
    (config,) = load_sweep(Path("../sweeps/scripted.yaml")).configs
    assert config.protocol[0].extractor_weights == beside / "weights.pt"


scalars = st.sampled_from([None, True, 0, 1, -1, 2.5, 10**15, "", "aae", "n_iter", "no", "a b", "\n", "x" * 200])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["seed", "variant", "options", "options.n", "eval", "preset", "protocol", "", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
lists = st.dictionaries(
    st.sampled_from(["seed", "variant", "options", "options.n", "data", "epochs", "protocol", "extractor"]),
    st.lists(values, max_size=3),
    max_size=3,
)
blocks = st.dictionaries(st.sampled_from([*SlurmOptions.model_fields, "x"]), values, max_size=4)

distributions = st.dictionaries(
    st.sampled_from(["uniform", "log_uniform", "integer", "choice", "x"]), values, min_size=1, max_size=2
)
searches = st.dictionaries(
    st.sampled_from(["learning_rate", "options.sigma", "options", "latent_dim", "variant", "eval.every"]),
    distributions | values,
    max_size=2,
).flatmap(lambda block: st.fixed_dictionaries({"trials": st.integers(0, 3) | values}).map(lambda own: {**own, **block}))


@given(
    st.fixed_dictionaries(
        {"grid": lists | values},
        optional={
            "name": values,
            "search": searches | values,
            "fixed": values,
            "exclude": st.lists(values, max_size=2),
            "slurm": blocks | values,
        },
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_sweep_file_is_one_or_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write(tmp_path, json.dumps(content))
    try:
        outcome = str(len(load_sweep(path).configs))
    except InputError as error:
        outcome = str(error)
    assert outcome.isdigit() or str(path) in outcome, "what is wrong is said with the file's name"
