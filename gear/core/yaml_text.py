"""Read untrusted YAML with the parser of DVC, so that both see the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gear.core.errors import InputError
from gear.core.text import one_line

MAX_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_VALUE = 4000  # characters


def read_yaml(file: Path, absent: str) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        file: The file.
        absent: What to do if it is absent or cannot be read, for the error.

    Raises:
        InputError: if it is absent, or refused by `parse_yaml`.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}: {absent}") from None
    return parse_yaml(content, str(file))


def parse_yaml(content: bytes, source: str) -> dict[str, Any]:
    """Return the mapping in a YAML document; an empty one if the document is empty.

    Duplicate keys, aliases (which can expand to any amount of data), tags, and documents or values
    that are too large or too deep are refused.

    Args:
        content: The document, UTF-8.
        source: Names it in errors.

    Raises:
        InputError: if it is refused, not YAML, or no mapping; one line says where and why.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(content) > MAX_BYTES:
        raise InputError(f"{source}: {len(content) >> 20} MiB is over {MAX_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not UTF-8 (byte {error.start})") from None
    try:
        _check_events(text, source)
        value = YAML(typ="safe").load(text)
    except InputError:
        raise
    except YAMLError as error:
        raise InputError(f"{source}: not YAML: {_where(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not YAML: {one_line(str(error), 200)}") from None
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise InputError(f"{source}: not a mapping of names to values")
    _check_names(value, source)
    return value


def _check_events(text: str, source: str) -> None:
    """Raise `InputError` for aliases, tags, and values that are too deep or too long."""
    from ruamel.yaml import YAML, events

    depth = 0
    for event in YAML(typ="safe").parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, events.AliasEvent):
            raise InputError(f"{source} line {line}: aliases (*name) are not read: write it out")
        if getattr(event, "tag", None) is not None:
            raise InputError(f"{source} line {line}: tags (!name) are not read: take it out")
        if isinstance(event, events.CollectionStartEvent):
            depth += 1
        if isinstance(event, events.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InputError(f"{source} line {line}: more than {MAX_DEPTH} levels deep")
        if isinstance(event, events.ScalarEvent) and len(event.value) > MAX_VALUE:
            raise InputError(
                f"{source} line {line}: a value of {len(event.value)} characters, over {MAX_VALUE}"
            )


def _check_names(value: Any, source: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise InputError(f"{source}: key {one_line(str(name), 60)} is not a name")
            _check_names(inner, source)
    if isinstance(value, list):
        for inner in value:
            _check_names(inner, source)


def _where(error: Any) -> str:
    """Return the line and the problem that the parser reports."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).split(" in ")[0]
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return line + one_line(problem, 200)
