"""YAML says what it looks like it says, wherever it is read, and ends well whatever it holds."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import build_config
from harness.errors import InputError
from harness.settings import load_config_file, parse_assignments, parse_json, parse_yaml

REPEATED = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in pairwise("abcdefghi")
)
REFUSED = {
    "epochs: 1\nepochs: 2": "the key 'epochs' is given twice",
    "options: {n: 1, n: 2}": "the key 'n' is given twice",
    REPEATED: "more than 100000 values",
    "a: &a [*a]": "holds itself",
    "a: " + "[" * 5000: "nested more than 32 levels",
    f"a: {'x' * 2_000_000}": "more than the 1048576 of any configuration",
    "seed: 9223372036854775808": "beyond 2^53",
    "learning_rate: .inf": "no number that a field can have",
    "learning_rate: .nan": "no number that a field can have",
    "learning_rate: 1e999": "no number that a field can have",
    "name: !!python/object/apply:os.system [true]": "could not determine a constructor",
    "names: !!set {a, b}": "could not determine a constructor",
    "{[a]: 1}": "unhashable key",
    "a: [": "expected the node content",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", 17),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("1e-4", 1e-4),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("2026-11-28", "2026-11-28"),
        ("true", True),
        ("~", None),
        ("-.5", -0.5),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_yaml_is_read_as_version_1_2_says(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_nobody_can_mean_is_refused_wherever_yaml_is_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_config_file(file)
    assert REFUSED[text] in str(error.value)
    assert str(file) in str(error.value)
    with pytest.raises(InputError) as error:
        build_config({"protocol": str(file)})
    assert REFUSED[text] in str(error.value)
    with pytest.raises(InputError):
        parse_assignments([f"options={{a: 1, b: {text}}}"])


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": Infinity}', '{"a": 9007199254740993}', "[" * 100_000, '{"a": 1e999}', "{"]
)
def test_json_is_held_to_the_same(text: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(InputError, match=r"cannot read the configuration .*it\.json"):
        load_config_file(tmp_path / "it.json")


def test_numbers_on_the_command_line_are_decimal_and_clock_times_are_none() -> None:
    assert build_config(parse_assignments(["seed=017"])).seed == 17
    with pytest.raises(InputError, match="seed = '1:30'"):
        build_config(parse_assignments(["seed=1:30"]))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Beside C0 controls YAML cannot hold these as they are, and PyYAML does not escape them all.
    | st.text(st.characters(blacklist_categories=["Cs", "Cc", "Cn", "Co"], max_codepoint=0xFFFF), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_what_json_holds_is_read_the_same_as_json_and_as_yaml(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text) == value
    assert parse_yaml(text) == value


@given(st.text(st.sampled_from("{}[]:,-&*!<?|>'\"#%@ \nabn019.eE~x_"), max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    refused = ""
    try:
        parse_yaml(text)
    except ValueError as error:
        refused = str(error)
    assert "\n" not in refused
