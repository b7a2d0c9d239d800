"""Whole params files by name."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from gear import paths
from gear.core.errors import InputError
from gear.core.settings import Section
from gear.encoders.config import TeachersConfig, TextConfig
from gear.evaluation.config import EvaluateConfig
from gear.generator.config import GeneratorConfig, SampleConfig
from gear.ingest.config import DataConfig
from gear.joint.config import JointConfig
from gear.losses.config import GanConfig, LossConfig
from gear.paths import PARAMS
from gear.tokenizer.config import TokenizerConfig
from gear.training.config import HealthConfig, RunConfig, TrainConfig


class Config(Section):
    """The whole of params.yaml."""

    run: RunConfig
    data: DataConfig
    text: TextConfig = Field(default_factory=lambda: TextConfig.model_validate({}))
    teacher: TeachersConfig
    tokenizer: TokenizerConfig
    loss: LossConfig
    gan: GanConfig
    generator: GeneratorConfig
    joint: JointConfig
    train: TrainConfig
    sample: SampleConfig
    evaluate: EvaluateConfig
    health: HealthConfig

    @model_validator(mode="after")
    def _grid(self) -> Config:
        if self.data.source != "openmoji" and not self.data.root:
            raise ValueError(
                f"data.source is {self.data.source} and data.root is empty: name the folder that holds it"
            )
        if self.sample.prompts and self.data.condition == "class":
            raise ValueError(
                "sample.prompts are captions and data.condition is class: set it to caption, or remove them"
            )
        if self.loss.adaptive and self.train.zero_stage == 3:
            raise ValueError(
                "loss.adaptive needs the decoder's last weights whole: use train.zero_stage 2 or less"
            )
        if self.data.size // self.tokenizer.factor < 2:
            raise ValueError(
                f"data.size {self.data.size} over tokenizer factor {self.tokenizer.factor} leaves no grid: use fewer multipliers"
            )
        return self

    @property
    def grid(self) -> int:
        """Side of the token grid; L = grid^2."""
        return self.data.size // self.tokenizer.factor


def _one_line(error: ValidationError, where: str) -> str:
    errors = error.errors(include_url=False)
    first = min(
        errors, key=lambda e: e["type"] != "extra_forbidden"
    )  # a typo explains the key that is missing
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}: {_allowed_keys(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"{where}: missing key {key!r}{more}"
    value = "" if first["type"] == "value_error" else f" = {first['input']!r}"
    return f"{where}: {key}{value}: {first['msg'].removeprefix('Value error, ')}{more}"


def _allowed_keys(loc: tuple[Any, ...]) -> str:
    model: Any = Config
    for part in loc[:-1]:
        inner = (
            model.model_fields[str(part)].annotation
            if str(part) in getattr(model, "model_fields", {})
            else model
        )
        model = next(
            (
                m
                for m in (inner, *get_args(inner))
                if isinstance(m, type) and issubclass(m, Section)
            ),
            inner,
        )
    if not hasattr(model, "model_fields"):
        return "it is not a setting"
    close = get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return (
        f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(model.model_fields)}"
    )


def parse(text: str, where: str = str(PARAMS)) -> Config:
    """Configuration of a YAML text; `where` names it in errors. Raises `InputError`."""
    try:
        return Config.model_validate(yaml.safe_load(text) or {})
    except ValidationError as error:
        raise InputError(_one_line(error, where)) from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not YAML: {' '.join(str(error).split())}") from None


def load(path: Path = PARAMS) -> Config:
    """Configuration of a params file. Raises `InputError`."""
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}: write it with `gear preset quickstart`"
        ) from None
    return parse(text, str(path))


def list_presets() -> str:
    """The names there are, one a line."""
    return "\n".join(sorted(path.stem for path in paths.PRESETS.glob("*.yaml")))


def apply_preset(name: str) -> str:
    """Write a preset to params.yaml; returns one line a changed key. Raises `InputError` on an unknown name."""
    source = paths.PRESETS / f"{name}.yaml"
    if "/" in name or not source.exists():
        raise InputError(f"no preset {name!r}: there are {', '.join(list_presets().split())}")
    text = source.read_text()
    parse(text, str(source))
    old = _flat(yaml.safe_load(paths.PARAMS.read_text())) if paths.PARAMS.exists() else {}
    new = _flat(yaml.safe_load(text))
    draft = paths.PARAMS.with_suffix(".partial")
    draft.write_text(text)
    os.replace(draft, paths.PARAMS)
    changed = [
        f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]
    return "\n".join(changed) or f"params.yaml already holds {name}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in (tree or {}).items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat
