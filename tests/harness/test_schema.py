"""The schema of a run folder is what the harness writes, what readers check, and what is shipped for other tools."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.config import RunConfig, build_config
from harness.fields import FIELDS
from harness.record import RunFolder
from harness.schema import FILES, SCHEMAS, Config, build_json_schemas, check_evaluation, check_object, check_records


def test_the_shipped_json_schemas_are_what_the_code_checks() -> None:
    shipped = {file.name.removesuffix(".schema.json"): json.loads(file.read_text()) for file in SCHEMAS.iterdir()}
    assert shipped == build_json_schemas(), "write them anew: python -m harness.schema"


def test_a_real_run_folder_is_valid_for_us_and_for_other_tools(finished_run: Path) -> None:
    folder = RunFolder(finished_run)
    (evaluation,) = folder.find_evaluations()
    contents: dict[str, Any] = {
        "config": [folder.read_config()],
        "environment": [folder.read_environment()],
        "status": [folder.read_status()],
        "protocol": [evaluation.read_protocol()],
        "record": folder.read_records(),
        "evaluation": evaluation.read(),
    }
    assert set(contents) == set(FILES)
    for name in ("config", "environment", "status", "protocol"):
        check_object(name, contents[name][0])
    check_records(contents["record"])
    check_evaluation(contents["evaluation"])
    for name, schema in build_json_schemas().items():
        validator = jsonschema.Draft202012Validator(schema)
        assert contents[name]
        for content in contents[name]:
            validator.validate(content)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"variant": "gan", "optimizer": "adamw", "betas": [0.5, 0.9], "ema_decay": 0.99, "gradient_clipping": 1.0},
        {"variant": "combined", "options": {"depth": 2, "n": 3}, "max_images": 64, "sweep": "my sweep"},
    ],
)
def test_whatever_can_be_asked_for_is_valid(fields: dict[str, Any]) -> None:
    check_object("config", build_config(fields).model_dump(mode="json"))


def test_every_field_that_changes_the_training_is_in_the_schema() -> None:
    training = {name for name, field in FIELDS.items() if field.changes == "training"}
    assert training <= set(Config.model_fields) <= set(RunConfig.model_fields)


@pytest.mark.parametrize("wrong", [True, "5", 5.0, -1, 2**63, None, [5]])
def test_nothing_is_converted_to_an_epoch(wrong: Any) -> None:
    with pytest.raises(ValueError, match="epoch is"):
        check_records([{"epoch": wrong, "images_seen": 0}])


def test_an_error_names_the_file_the_field_and_the_value_and_is_short() -> None:
    with pytest.raises(ValueError, match=r"^status.json: epochs is 'aaa") as caught:
        check_object("status", {"state": "done", "epochs": "a" * 100_000})
    assert len(str(caught.value)) < 300
