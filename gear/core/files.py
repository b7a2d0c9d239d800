"""Atomic outputs of stages: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gear.core.errors import InputError


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a fresh folder beside `folder` and put it in its place; a crash leaves the old one."""
    draft = folder.with_name(folder.name + ".partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    fill(draft)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    draft.write_bytes(content)
    os.replace(draft, path)


def write_json(path: Path, value: Any) -> None:
    """Deterministic JSON: sorted keys, floats to six significant digits."""
    replace_file(
        path,
        (json.dumps(_rounded(value), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
    )


def read_json(path: Path) -> Any:
    """A stage's own JSON. Raises `InputError` where it is absent or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: {error}: run the stage that makes it with `dvc repro`") from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
