"""How the options of every command are read: strictly, as --set and configuration files read the same values.

Left to itself, cyclopts rounds 1.5 to 2 where an integer is meant, and takes inf, 1_000 and none.
"""

from collections.abc import Sequence
from typing import Any

from cyclopts import CoercionError, Parameter, Token, convert


def convert_strictly(hint: Any, tokens: Sequence[Token]) -> Any:
    """An option's value, of the type `hint`. Raises: CoercionError, which ends the command with status 2."""
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
