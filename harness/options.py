"""How the options of every command are read: strictly, as --set and configuration files read the same values.

Left to itself, cyclopts rounds 1.5 to 2 where an integer is meant, and takes inf, 1_000 and none.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from cyclopts import CoercionError, Parameter, Token, convert


def convert_strictly(hint: Any, tokens: Sequence[Token]) -> Any:
    """An option's value, of the type `hint`. Raises: CoercionError, which ends the command with status 2."""
    kinds = get_args(hint)
    if kinds[:1] == (int,) and get_origin(kinds[-1]) is Literal:  # a number, or a word in its place
        text = tokens[0].value
        return text if text in get_args(kinds[-1]) else convert(int, tokens, _read)
    return convert(hint, tokens, _read)


def _read(kind: Any, text: str) -> Any:
    from harness.settings import read_integer, read_number  # noqa: PLC0415 (imports yaml)

    if "\0" in text:
        raise CoercionError(msg=f"{text!r} holds a zero byte, which no value can")
    if kind is type(None):
        raise ValueError("an option that is not wanted is left out")
    if kind not in (int, float):
        return convert(kind, [text])
    try:
        return read_integer(text) if kind is int else read_number(text)
    except ValueError as error:
        raise CoercionError(msg=str(error)) from error


STRICT = Parameter(converter=convert_strictly)
