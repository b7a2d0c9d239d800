"""Whole params files by name."""

from __future__ import annotations

import os
from typing import Any

import yaml

from gear import paths
from gear.config import BadInput, parse


def list_presets() -> str:
    """The names there are, one a line."""
    return "\n".join(sorted(path.stem for path in paths.PRESETS.glob("*.yaml")))


def apply_preset(name: str) -> str:
    """Write a preset to params.yaml; returns one line a changed key. Raises `BadInput` on an unknown name."""
    source = paths.PRESETS / f"{name}.yaml"
    if "/" in name or not source.exists():
        raise BadInput(f"no preset {name!r}: there are {', '.join(list_presets().split())}")
    text = source.read_text()
    parse(text, str(source))
    old = _flat(yaml.safe_load(paths.PARAMS.read_text())) if paths.PARAMS.exists() else {}
    new = _flat(yaml.safe_load(text))
    draft = paths.PARAMS.with_suffix(".partial")
    draft.write_text(text)
    os.replace(draft, paths.PARAMS)
    changed = [f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}" for key in sorted(old | new) if old.get(key) != new.get(key)]
    return "\n".join(changed) or f"params.yaml already holds {name}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in (tree or {}).items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
