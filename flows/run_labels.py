"""Choices of parameters, names and tags of runs in Prefect's UI."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_args
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from pydantic import Field

from gear.core.errors import InputError
from gear.core.yaml_text import read_yaml
from gear.joint.config import JointConfig
from gear.params import list_presets, load_preset
from gear.paths import PARAMS


def one_of(names: Iterable[str]) -> Any:
    """Return a field that makes the UI offer these values of a text parameter."""
    return Field(json_schema_extra={"enum": list(names)})


def _stages(pipeline: Path) -> list[str]:
    """Return the stages of a dvc.yaml; [] if it cannot be read."""
    try:
        return list(read_yaml(pipeline, "")["stages"])
    except (InputError, KeyError, TypeError):
        return []


# Checked by the server when a run is made; the flows check them too, with the reason.
Recipe = Annotated[str, one_of(get_args(JointConfig.model_fields["recipe"].annotation))]
Preset = Annotated[str, one_of(["", *list_presets().split()])]
StageName = Annotated[str, one_of(_stages(Path("dvc.yaml")))]


def pipeline_name() -> str:
    """Return the name of a run of the pipeline, by its parameters."""
    given = flow_run.get_parameters() or {}
    if given.get("name"):
        start = f"{flow_run.get_scheduled_start_time():%Y%m%d-%H%M}"
        what = f"experiment {given['name']}".replace("{start}", start)
    else:
        what = f"preset {given['preset']}" if given.get("preset") else "params.yaml"
    targets = given.get("targets") or []
    return shorten(f"{what}: {', '.join(targets)}" if targets else what)


def recipes_name() -> str:
    """Return the name of a comparison of recipes, by its parameters."""
    given = flow_run.get_parameters() or {}
    recipes = ", ".join(given.get("recipes") or ["gear", "continued", "llamagen_repa"])
    seeds = ", ".join(map(str, given.get("seeds") or [0]))
    return shorten(f"{recipes}; seeds {seeds}")


def shorten(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def tags_of(folder: Path, overrides: Iterable[str] = (), *, preset: str = "") -> set[str]:
    """Return tags for the recipe, quantizer, data source and preset of a run.

    Values are those of params.yaml, or of the preset, with the overrides. Without both, no tags.
    """
    tags = {f"preset: {preset}"} if preset else set()
    try:
        values = load_preset(preset).model_dump() if preset else read_yaml(folder / PARAMS, "")
    except InputError:
        return tags
    changed = dict(override.split("=", 1) for override in overrides)
    for key in ("joint.recipe", "tokenizer.quantizer", "data.source"):
        section, name = key.split(".")
        value = changed.get(key, (values.get(section) or {}).get(name))
        if isinstance(value, str):
            tags.add(f"{name}: {value}"[:80])
    return tags


def add_tags(tags: set[str]) -> None:
    """Add tags to this run, to filter runs by in the UI."""
    run = flow_run.get_id()
    if run and tags:
        with get_client(sync_client=True) as client:
            kept = client.read_flow_run(UUID(run)).tags
            client.update_flow_run(UUID(run), tags=sorted({*kept, *tags}))
