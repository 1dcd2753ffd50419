"""The run id follows from what changes the trained weights; bad fields are named with what would be right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from harness.config import RunConfig, build_config
from harness.errors import InputError
from harness.fields import FIELDS
from harness.settings import load_config_file, parse_assignments
from variants.n_iter import NIter

ANOTHER = {
    "variant": "n_iter",
    "options": {"sigma": "exp"},
    "dataset": "mnist",
    "image_size": 28,
    "channels": 1,
    "crop": "center",
    "max_images": 100,
    "seed": 1,
    "epochs": 3,
    "batch_size": 17,
    "learning_rate": 0.5,
    "latent_dim": 3,
    "architecture": "conv",
    "mixed_precision": "bf16",
    "eval_every": 2,
    "checkpoint_every": 2,
    "protocol": "clean",
    "extractor": "domain",
    "n_fake": 7,
    "sweep": "another",
    "search": {"learning_rate": {"uniform": [0.1, 0.9]}},
    "samplers": ["prior", "gaussian"],
    "sampling_seeds": 2,
    "optimizer": "adamw",
    "betas": [0.5, 0.999],
    "weight_decay": 0.1,
    "gradient_clipping": 1.0,
    "gradient_accumulation": 2,
    "ema_decay": 0.99,
    "sync_batchnorm": True,
    "step": "eager",
    "checkpoint_minutes": 1.0,
    "keep_checkpoints": 3,
    "keep_weights": "evaluations",
    "eval_when": "after",
    "mechanisms": True,
    "trackers": ["tensorboard"],
}


def test_the_defaults_are_the_papers() -> None:
    config = build_config({})
    assert (config.latent_dim, config.learning_rate, config.epochs, config.eval_every) == (10, 1e-4, 100, 5)
    assert config == build_config({"preset": "paper"})


@pytest.mark.parametrize(("image_size", "batch_size"), [(32, 1024), (64, 256)])
def test_the_papers_batch_size_follows_the_image_size(image_size: int, batch_size: int) -> None:
    assert build_config({"image_size": image_size}).batch_size == batch_size
    assert build_config({"image_size": image_size, "batch_size": 50}).batch_size == 50


@pytest.mark.parametrize("field", ANOTHER)
def test_a_field_changes_the_run_id_if_it_changes_the_trained_weights(field: str) -> None:
    changed = build_config({field: ANOTHER[field]}).run_id != build_config({}).run_id
    assert changed == (FIELDS[field].changes == "training")


def test_every_field_is_tried_above_and_stands_in_the_table() -> None:
    files = {"extractor_weights", "feature_weights", "feature_sha256"}
    assert set(ANOTHER) | files == set(RunConfig.model_fields) == set(FIELDS)


def test_how_a_run_is_scored_and_for_how_long_it_trains_is_no_part_of_its_identity() -> None:
    other = {"protocol": ["clean", "published"], "extractor": "domain", "n_fake": 7, "samplers": ["prior", "gmm"]}
    other |= {"sampling_seeds": 3, "eval_every": 1, "epochs": 7}
    assert build_config(other).run_id == build_config({}).run_id


# Ids of finished runs. A new field, or a new option of a variant, has a default that does what was done before: it must
# not rename them. Whoever changes a default on purpose gives the old value another name first.
PINNED: dict[str, dict[str, Any]] = {
    "aae-digits-32px-seed0-95ed5d1150b4": {},
    "aae-digits-32px-seed0-3d86aecc2a2b": {"preset": "demo"},
    "n_iter-digits-32px-seed0-077a4bf7ee43": {"variant": "n_iter", "options.n": 5},
    "kld_loss-digits-32px-seed0-eac1eec454da": {"variant": "kld_loss", "options.direction": "prior_posterior"},
    "latent_mapping-digits-32px-seed0-c2de7b297090": {"variant": "latent_mapping", "options.depth": 8},
    "combined-digits-32px-seed0-54a69a24a787": {"preset": "all_four"},
    "combined-digits-32px-seed3-c159728ba2bd": {"preset": "kld_feature", "seed": 3},
    "aae-fashion_mnist-32px-seed0-c02ea55b3835": {
        "dataset": "fashion_mnist",
        "learning_rate": 0.003,
        "max_images": 5000,
    },
    "aae-ffhq-64px-seed0-1c31bfbdc412": {
        "dataset": "ffhq",
        "image_size": 64,
        "architecture": "conv",
        "mixed_precision": "bf16",
    },
    "aae-digits-32px-seed0-cf27ee4698c7": {"optimizer": "adamw", "betas": [0.5, 0.999], "gradient_clipping": 1.0},
    "beta_vae-digits-32px-seed0-4c1739aa7bc1": {"variant": "beta_vae", "options.beta": 16, "latent_dim": 2},
    "gan-digits-32px-seed0-fa1c72ce849e": {"variant": "gan", "channels": 1, "ema_decay": 0.999},
    "aae-digits-32px-seed0-72b3cd58cb0c": {
        "options.sigma": "exp",
        "options.kl_weight": 0.1,
        "gradient_accumulation": 2,
    },
}


@pytest.mark.parametrize("run_id", PINNED)
def test_todays_runs_keep_their_ids(run_id: str) -> None:
    assert build_config(PINNED[run_id]).run_id == run_id


def test_a_new_option_with_a_default_renames_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Options(NIter.Options):
        another_remedy: float = 0.0

    before = build_config({"variant": "n_iter", "options.n": 5})
    monkeypatch.setattr(NIter, "Options", Options)
    after = build_config({"variant": "n_iter", "options.n": 5})
    assert "another_remedy" in after.model_dump()["options"]
    assert after.run_id == before.run_id
    assert build_config({"variant": "n_iter", "options.n": 5, "options.another_remedy": 1}).run_id != before.run_id


def test_every_number_has_a_range_in_the_table() -> None:
    numbers = {name for name, field in RunConfig.model_fields.items() if {int, float} & set(_types(field.annotation))}
    assert numbers == {name for name, field in FIELDS.items() if field.allowed is not None}


def _types(annotation: Any) -> set[Any]:
    return {annotation}.union(*map(_types, get_args(annotation)))


def test_yamls_bare_no_is_the_precision_no() -> None:
    assert build_config(parse_assignments(["mixed_precision=no"])) == build_config({})


def test_naming_a_default_changes_no_run_id() -> None:
    named = build_config({"variant": "n_iter", "options.n": 3, "batch_size": 1024})
    assert named.run_id == build_config({"variant": "n_iter"}).run_id


def test_a_weights_file_counts_by_its_content(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for file, content in zip(files, ("same", "same", "other"), strict=True):
        file.write_text(content)
    first, second, third = (build_config({"feature_weights": file}).run_id for file in files)
    assert first == second != third


def test_a_configuration_survives_its_own_json() -> None:
    config = build_config({"variant": "kld_loss", "options.weight": 0.3, "image_size": 64})
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_layers_override_one_another_and_options_merge(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("variant: kld_loss\nepochs: 7\noptions: {weight: 0.5, sigma: linear}\n")
    config = build_config(load_config_file(file), {"epochs": 8}, parse_assignments(["options.weight=0.25", "seed=4"]))
    assert (config.epochs, config.seed) == (8, 4)
    assert (config.options.sigma, config.options.weight) == ("linear", 0.25)


def test_a_preset_yields_to_everything_else() -> None:
    assert build_config({"epochs": 2}, {"preset": "demo"}).epochs == 2
    assert build_config({"preset": "demo"}).protocol[0].extractor == "domain"


def test_cured_is_the_setting_that_the_page_on_collapse_states() -> None:
    cured = build_config({"preset": "cured"})
    assert (cured.variant, cured.options.n, cured.learning_rate) == ("n_iter", 3, 3.48e-3)
    assert cured == build_config({"variant": "n_iter", "options.n": 3, "learning_rate": 3.48e-3}), "and nothing else"


def test_scientific_notation_on_the_command_line_is_a_number() -> None:
    assert build_config(parse_assignments(["learning_rate=1e-3"])).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": ["a"]}, "variant = ['a']"),
        ({"protocol": ["a"]}, "unknown protocol"),
        ({"protocol": ["paper", "paper"]}, "name each at most once"),
        ({"protocol": []}, "protocol"),
        ({"seed": 2**63}, "seed"),
        ({"feature_sha256": "ab"}, "follows from feature_weights"),
        ({"preset": 3}, "unknown preset '3'"),
        ({"epochs": True}, "epochs = true is a truth value"),
        ({"variant": "n_iter", "options.n": True}, "options.n = true is a truth value"),
        ({"variant": "feature", "options.weight": float("nan")}, "weight is nan"),
        ({"dataset": "x" * 300}, "up to 64"),
        ({"samplers": ["gaussian"]}, "name prior first"),
        ({"variant": "gan", "samplers": ["prior", "gmm"]}, "gan has no posterior"),
        ({"variant": "no.such:Thing"}, "cannot be loaded"),
        ({"variant": "variants.base:Phase"}, "no class Phase that is a variants.Variant"),
        ({"variant": "gan", "options.sigma_floor": 0.1}, "unknown option of gan 'sigma_floor'"),
        ({"variant": "vae", "options.sigma_penalty": 0.1}, "unknown option of vae 'sigma_penalty'"),
        ({"variant": "vae_gan", "options.layer": 3}, "layer is 3"),
        ({"variant": "kld_loss", "options.kl_weight": 1}, "second KL term"),
        ({"variant": "combined", "options.kl_weight": 1, "options.kld_weight": 1}, "set one of them"),
        ({"options.sigma_floor": -1}, "sigma_floor is -1"),
        ({"variant": "aee"}, "unknown variant 'aee'; did you mean vae or aae?"),
        ({"epoch": 3}, "unknown field 'epoch'; did you mean epochs?"),
        ({"variant": "n_iter", "options.m": 2}, "unknown option of n_iter 'm'; valid: kl_direction"),
        ({"options.n": 2}, "unknown option of aae 'n'; valid: kl_direction"),
        ({"variant": "n_iter", "options.n": 0}, "n is 0"),
        ({"variant": "latent_mapping", "options.depth": "deep"}, "options.depth = 'deep'"),
        ({"options.sigma": "log"}, "'linear' or 'exp'"),
        ({"options": 3}, "options = 3"),
        ({"epochs": "many"}, "epochs = 'many': it must be an integer from 1 to 999,999"),
        ({"epochs": 0}, "it must be a number from 1 to 999,999"),
        ({"epochs": 10**9}, "it must be a number from 1 to 999,999"),
        ({"epochs": 1.9}, "epochs = 1.9: it must be an integer"),
        ({"epochs": 2.0}, "epochs = 2.0: it must be an integer"),
        ({"seed": "1"}, "seed = '1': it must be an integer"),
        ({"seed": 2**63}, "it must be a number from 0 to 9,007,199,254,740,992"),
        ({"seed": [1]}, "seed = [1]: it must be an integer"),
        ({"latent_dim": 10**9}, "it must be a number from 1 to 16,384"),
        ({"batch_size": 10**9}, "it must be a number from 2 to 1,000,000"),
        ({"n_fake": 10**9}, "it must be a number from 2 to 10,000,000"),
        ({"protocol": {"name": "x", "normalisation": "batch", "n_fake": "3"}}, "n_fake = '3'"),
        ({"step": "quick"}, "step = 'quick'"),
        ({"learning_rate": float("nan")}, "it must be a number above 0 to 10"),
        ({"learning_rate": "0.1"}, "learning_rate = '0.1': it must be a number"),
        ({"gradient_clipping": float("inf")}, "it must be a number above 0 to 1,000,000"),
        ({"betas": [0.5, 1]}, "betas.1 = 1: it must be a number from 0 to below 1"),
        ({"variant": "n_iter", "options.n": 2.0}, "options.n = 2.0"),
        ({"variant": "n_iter", "options.n": 10**9}, "1 to 1,000"),
        ({"variant": "latent_mapping", "options.depth": 10**9}, "0 to 100"),
        ({"variant": "kld_loss", "options.weight": float("inf")}, "a number from 0 to 1,000,000"),
        ({"image_size": 7}, "the mlp architecture takes 8 to 128 px"),
        ({"architecture": "transformer"}, "architecture = 'transformer'"),
        ({"architecture": "conv", "image_size": 28}, "it takes 32, 40, 48, 56, 64, 80, 96, 112 or 128 px"),
        ({"architecture": "conv", "image_size": 72}, "image_size = 72 does not suit architecture = conv"),
        ({"architecture": "conv", "image_size": 256}, "conv 32 to 128"),
        ({"dataset": "../x"}, "lower-case letters"),
        ({"preset": "papr"}, "unknown preset 'papr'; did you mean paper?"),
        ({"protocol": "publishd"}, "unknown protocol 'publishd'"),
        ({"extractor": "inceptoin"}, "unknown extractor 'inceptoin'; did you mean inception?"),
        ({"extractor_weights": "/no/such.pt"}, "there is no file /no/such.pt"),
        ({"mixed_precision": "fp8"}, "mixed_precision = 'fp8'"),
    ],
)
def test_bad_fields_are_explained(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        build_config(fields)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("content", ["- 1\n- 2\n", "epochs: [1\n", "", "1: 2\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml"):
        load_config_file(file)


@pytest.mark.parametrize("assignment", ["epochs", "=3", "epochs=[1"])
def test_an_assignment_needs_key_and_value(assignment: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_assignments([assignment])
