"""Griffe extension of mkdocs.yml: convert the docstrings of this project to Markdown.

They have examples without a heading, arguments as `name: description`, and formulas with < and >.
A field is described by its comment.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

NAMES = re.compile(r"^\w+: \S.*(\n(\w+: \S| {2,}\S).*)*$")
COMMENT = re.compile(r"  # (.*)$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            names = set(obj.members) if obj.is_class else {p.name for p in _parameters(obj)}
            heading = "Attributes:" if obj.is_class else "Args:"
            obj.docstring.value = as_markdown(obj.docstring.value, names, heading)
        elif obj.is_attribute and (comment := COMMENT.search(obj.source)):
            obj.docstring = griffe.Docstring(as_markdown(comment[1], set(), ""), parent=obj)


def as_markdown(text: str, names: set[str], heading: str) -> str:
    """Return a docstring with its examples as code and its named paragraphs as a section.

    names: the object's arguments or attributes; a paragraph that begins with another name is text.
    """
    shown = []
    for paragraph in re.split(r"\n\n+", text.rstrip()):
        if paragraph.lstrip().startswith(">>>"):
            shown.append(f"```pycon\n{paragraph}\n```")
        elif NAMES.match(paragraph) and paragraph.split(":")[0] in names:
            shown.append("\n".join([heading, *(f"    {line}" for line in paragraph.splitlines())]))
        else:
            shown.append(paragraph.replace("<", "&lt;"))
    return "\n\n".join(shown)


def _parameters(obj: griffe.Object) -> list[griffe.Parameter]:
    return list(obj.parameters) if isinstance(obj, griffe.Function) else []
