"""Docstrings made fit for Markdown: `Args:`, `Returns:` and `Raises:` begin paragraphs, and <names> are no HTML."""

import re
from typing import Any

from griffe import Extension, Object

SECTION = re.compile(r"^(Args|Returns|Raises):", re.MULTILINE)


class Docstrings(Extension):
    """mkdocstrings finds this class; griffe calls it for every object that it has read."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            text = obj.docstring.value.replace("<", "&lt;")
            obj.docstring.value = SECTION.sub(r"\n**\1:**", text)
