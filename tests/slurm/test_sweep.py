"""A sweep file is a grid of run configurations, checked before anything runs."""

from pathlib import Path

import pytest

from harness.errors import InputError
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
    assert [config.options["depth"] for config in configs] == [0, 1, 2, 4, 8]


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
