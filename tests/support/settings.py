"""Make and write settings based on the tiny preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gear import params


def tiny_settings(**sections: dict[str, Any]) -> params.Config:
    """Return the tiny preset with some values changed, checked as params.yaml is."""
    values = params.load_preset("tiny").model_dump()
    for name, changes in sections.items():
        values[name] |= changes
    return params.Config.model_validate(values)


def write_params(folder: Path, config: params.Config | None = None) -> None:
    """Write a complete params.yaml, by default that of the tiny preset."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(params.to_yaml(config or tiny_settings()))


def edit_params(folder: Path, **sections: dict[str, Any]) -> None:
    """Change values of a params.yaml in place."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in sections.items():
        values[section].update(changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
