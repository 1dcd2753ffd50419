"""Options of every command convert strictly, and own variants that cannot be imported are explained."""

from pathlib import Path
from typing import get_args

import pytest

from aaebench import app
from harness import commands
from harness.config import build_config
from harness.errors import InputError
from tests.harness.fuzzing import Option, list_commands


def needed(options: list[Option], tried: Option) -> list[str]:
    """What a command cannot do without, besides the option that is tried."""
    others = [option for option in options if option.required and option != tried]
    return [word for each in others for word in ([each.name] if each.name.startswith("-") else []) + ["1"]]


NUMBERS = {
    f"{' '.join(path)} {option.name}": (kind, [*path, *needed(options, option)], option.name)
    for path, options in list_commands()
    for option in options
    for kind in (int, float)
    if kind in (option.kind, *get_args(option.kind))
}
REFUSED = {
    int: ["1.5", "2.0", "1e3", "1_0", "none", "inf", "nan", "1 ", "١", "0b1", str(2**53 + 1)],
    float: ["1_0", "none", "inf", "nan", "1e999", "1 ", "x"],
}


@pytest.mark.parametrize("option", NUMBERS)
def test_what_is_no_such_number_is_refused_before_anything_is_read(
    option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, line, name = NUMBERS[option]
    for value in REFUSED[kind]:
        with pytest.raises(SystemExit) as ended:
            app([*line, f"{name}={value}"], result_action="return_value")
        assert ended.value.code == 2
        error = capfd.readouterr().err
        assert f"Invalid value for {name}" in error
        assert any(reason in error for reason in ("is no integer", "is no number", "beyond 2^53", "all are finite"))


def test_harness_train_reads_them_as_run_does(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["harness.train", "--epochs", "1.5"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert "'1.5' is no integer" in capfd.readouterr().err


def test_a_name_that_no_file_can_have_is_bad_input(capfd: pytest.CaptureFixture[str]) -> None:
    assert commands.call(lambda: app(["show", "a" * 5000], result_action="return_value")) == 2
    assert "File name too long" in capfd.readouterr().err


BEFORE = "from dataclasses import dataclass\nfrom variants.aae import AAE\nfrom variants import Variant\n"
OPTIONS = "class Mine(AAE):\n    @dataclass(frozen=True)\n    class Options(AAE.Options):\n"
MODULES = {
    "def f(:": "SyntaxError: invalid syntax (own_0.py, line 4)",
    "1 / 0": "own_1.py, line 4",
    "raise SystemExit('bye')": "SystemExit: bye",
    "\0": "SyntaxError",
    "import no_such_module": "No module named 'no_such_module'",
    "class Mine(Variant): pass": "does not define build_networks, decode, phases",
    "Mine = 3": "no class Mine that is a variants.Variant",
    "def Mine(): pass": "no class Mine that is a variants.Variant",
    "class Mine(AAE):\n    class Options: pass": "Mine.Options is no dataclass",
    f"{OPTIONS}        x: 'Nothing' = 3": "options of own_9:Mine are numbers, text",
    f"{OPTIONS}        x: AAE = None": "options of own_10:Mine are numbers, text",
}


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_holds_no_variant_says_why(text: str, here: Path) -> None:
    name = f"own_{[*MODULES].index(text)}"
    (here / f"{name}.py").write_text(BEFORE + text)
    with pytest.raises(InputError) as error:
        build_config({"variant": f"{name}:Mine"})
    assert MODULES[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_options_without_a_default_are_part_of_the_identity(here: Path) -> None:
    (here / "needy.py").write_text(
        BEFORE + "class Mine(AAE):\n    @dataclass(frozen=True, kw_only=True)\n"
        "    class Options(AAE.Options):\n        n: int\n"
    )
    one, other = (build_config({"variant": "needy:Mine", "options": {"n": n}}) for n in (1, 2))
    assert one.run_id != other.run_id
    with pytest.raises(InputError, match=r"options\.n"):
        build_config({"variant": "needy:Mine"})


@pytest.mark.parametrize("text", ["\0", "\ud800"])
def test_text_that_nothing_can_hold_is_refused_wherever_it_stands(text: str) -> None:
    for fields in ({"sweep": text}, {"options": {text: 1}}, {"protocol": {"name": text}}, {"extractor_weights": text}):
        with pytest.raises(InputError, match="zero byte, or half a character"):
            build_config(fields)
