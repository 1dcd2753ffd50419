"""`aaebench new`: a first version of what users add, which works as it is."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.errors import InputError
from harness.files import write_text
from harness.terminal import say

NAME = r"[a-z][a-z0-9_]{0,59}"


def variant(name: str, /, *, out: Path = Path()) -> None:
    """Write a variant of your own, with comments, and its test: OUT/NAME.py and OUT/test_NAME.py; prints both.

    Both work as they are. Nothing that is there is overwritten.

    Parameters
    ----------
    name
        Its module's name, as my_idea; its class is then MyIdea.
    out
        The folder to write to.
    """
    if not re.fullmatch(NAME, name) or keyword.iskeyword(name):
        raise InputError(f"NAME = {name!r} must be a Python module's name, in lower case, as my_idea")
    class_name = "".join(part.capitalize() for part in name.split("_"))
    files = {"variant.py.j2": out / f"{name}.py", "test_variant.py.j2": out / f"test_{name}.py"}
    if there := [str(path) for path in files.values() if path.exists() or path.is_symlink()]:
        raise InputError(f"{' and '.join(there)}: there already, and nothing is overwritten; choose another name")
    _require_free(name)
    templates = Environment(
        loader=PackageLoader("harness"), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        for template, path in files.items():
            write_text(path, templates.get_template(template).render(name=name, class_name=class_name))
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}; choose an existing folder with --out") from error
    print(*files.values(), sep="\n")
    inside = "" if out == Path() else f"cd {out} && "
    say(f"test it: {inside}python -m pytest test_{name}.py")
    say(f"train it: {inside}aaebench run --variant {name}:{class_name}")


def _require_free(name: str) -> None:
    """Raises: InputError for a name that is a variant's or another module's."""
    if find_spec(f"variants.{name}") is not None:
        raise InputError(f"{name} is a variant of aaebench; choose another name")
    if (there := find_spec(name)) is not None:
        raise InputError(f"{name} is the name of a module, which would be hidden ({there.origin}); choose another")
