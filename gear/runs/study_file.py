"""Load a study file: arms of settings, seeds, and the hypotheses to test."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from gear import paths
from gear.core.errors import InputError
from gear.core.settings import Section, faults, parse_section, refuse_truth_values
from gear.core.text import one_line
from gear.core.yaml_text import read_yaml
from gear.dvc_experiments import nothing_prepared
from gear.params import Config, flatten, from_values, load, load_preset, result_settings
from gear.runs.study_values import check_value

SEED = "run.seed"
NAME = re.compile(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*")
PRESENT = "params.yaml"  # instead of a preset: the checkout's settings
WARM_UP = "tokenizer"  # the stage that runs with equal settings of it share

Seed = Annotated[int, Field(ge=0, le=10**9)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class PredictionConfig(Section):
    """One comparison that a hypothesis predicts.

    `sooner`: `arm` reaches the last value of each arm of `than` in fewer steps.
    `lower`, `higher`: its value at the end is lower or higher than that of each arm of `than`.
    `falls`: the last logged value is less than `to` times the first.
    """

    kind: Literal["sooner", "lower", "higher", "falls"] = Field(description="What is predicted.")
    arm: str = Field(description="The arm that the prediction is about.")
    than: tuple[str, ...] = Field((), description="Arms, each of which is compared with.")
    value: str = Field("fd", description="Metric, or quantity of the generator's curve.")
    to: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="Share of the first value.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.arm in self.than or len(set(self.than)) < len(self.than):
            raise ValueError(f"kind {self.kind} of arm {self.arm!r}: `than` names other arms, once")
        if self.kind != "falls" and "to" in self.model_fields_set:
            raise ValueError(f"kind {self.kind} of arm {self.arm!r}: takes no `to`")
        if (self.kind == "falls") == bool(self.than):
            raise ValueError(
                f"kind {self.kind} of arm {self.arm!r}: "
                + ("takes no `than`" if self.than else "name the arms to compare with in `than`")
            )
        return self


class HypothesisConfig(Section):
    """A claim and what it predicts."""

    claim: str = Field(description="One sentence.")
    predictions: Annotated[tuple[PredictionConfig, ...], Field(min_length=1)] = Field(
        description="Comparisons, all of which have to come out for the claim to hold."
    )


class StudyConfig(Section):
    """The content of a study file."""

    title: str = Field(description="Heading of the page.")
    question: str = Field(description="What the study is to find out.")
    stopping: str = Field(description="When it ends: decided before the first run.")
    limits: tuple[str, ...] = Field((), description="What the study cannot show, a sentence each.")
    preset: str = Field(
        "quickstart", description="Preset that all settings are laid over, or `params.yaml`."
    )
    settings: dict[str, Any] = Field({}, description="Dotted settings that all arms share.")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = Field(
        description="Values of run.seed."
    )
    arms: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = Field(
        description="Dotted settings of each arm."
    )
    hypotheses: dict[str, HypothesisConfig] = Field({}, description="By their names: H1, H2, ...")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study: an arm and a seed.

    config: All settings.
    shared: Key that is equal for runs with the same warm-up, so that only one of them makes it.
    """

    study: str
    arm: str
    seed: int
    config: Config
    shared: str

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def experiment(self) -> str:
        """Name of the DVC experiment; it depends on the settings."""
        name = f"study-{self.study}-{self.name}".replace("_", "-")
        return f"{name}-{short_hash(self.settings)[:6]}"

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that can change a result, by dotted name."""
        return result_settings(self.config)


@dataclass(frozen=True)
class Study:
    """A validated study file. `name` is the name of the file without its extension."""

    name: str
    file: Path
    config: StudyConfig
    runs: tuple[PlannedRun, ...]

    @property
    def plan(self) -> str:
        """Hash of what must be fixed before the first run: settings of all runs, and hypotheses.

        A setting that a later version adds, or that moves from preset to file, does not change it.
        """
        usual = result_settings(Config())
        runs = {
            run.name: {key: value for key, value in run.settings.items() if value != usual.get(key)}
            for run in self.runs
        }
        return short_hash(
            {"runs": runs, "hypotheses": self.config.model_dump(mode="json")["hypotheses"]}
        )

    @property
    def folder(self) -> Path:
        """Folder of the records and the page."""
        return paths.STUDIES / self.name


def short_hash(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the sha256 of a JSON value.

    >>> short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def load_study(file: Path) -> Study:
    """Read a study file and check every setting of every arm.

    Raises:
        InputError: if it is not valid; one line names the key or the arm.
    """
    values = read_yaml(file, "name a file like studies/toy.yaml")
    _check_hypotheses(file, values.get("hypotheses"))
    arms = values.get("arms")
    for name, settings in arms.items() if isinstance(arms, dict) else ():
        if not isinstance(settings, dict):
            place = f"arms.{one_line(str(name), 60)}"
            raise InputError(f"{file}: {place}: give its settings, or {{}} if it has none")
    config = parse_section(StudyConfig, values, f"{file}: ")
    if not NAME.fullmatch(file.stem):
        raise InputError(f"{file}: the name of a study has letters, digits, '.', '_' and '-'")
    _check_names(file, config)
    base, declared = _base_settings(config.preset), _declared(WARM_UP)
    runs = [
        _plan(file, config, base, arm, seed, declared)
        for seed in config.seeds
        for arm in config.arms
    ]
    owners: dict[str, str] = {}
    for run in runs:
        key = json.dumps(run.settings, sort_keys=True)
        if key in owners:
            raise InputError(f"{file}: {owners[key]} and {run.name} have the same settings")
        owners[key] = run.name
    _check_values(file, config, {run.arm: run.config for run in runs})
    return Study(file.stem, file, config, tuple(runs))


def _check_hypotheses(file: Path, hypotheses: Any) -> None:
    """Check each prediction alone, so that an error names its hypothesis and key."""
    for name, hypothesis in hypotheses.items() if isinstance(hypotheses, dict) else ():
        predictions = hypothesis.get("predictions") if isinstance(hypothesis, dict) else None
        for number, prediction in enumerate(predictions if isinstance(predictions, list) else ()):
            place = f"hypotheses.{one_line(str(name), 60)}.predictions.{number}"
            refuse_truth_values(PredictionConfig, prediction, f"{file}: {place}.")
            try:
                PredictionConfig.model_validate(prediction)
            except ValidationError as error:
                key, _, message = faults(PredictionConfig, error)[0]
                place += f".{key}" if key else ""
                raise InputError(f"{file}: {place}: {message}") from None


def _check_names(file: Path, config: StudyConfig) -> None:
    if len(set(config.seeds)) < len(config.seeds):
        raise InputError(f"{file}: seeds: one is given twice")
    spelled = [arm.replace("_", "-") for arm in config.arms]
    for arm in config.arms:
        if not NAME.fullmatch(arm) or spelled.count(arm.replace("_", "-")) > 1:
            raise InputError(
                f"{file}: arm {arm[:60]!r}: a name of its own, of letters, digits, '.', '_', '-'"
            )
    for name, hypothesis in config.hypotheses.items():
        for prediction in hypothesis.predictions:
            for arm in (prediction.arm, *prediction.than):
                if arm not in config.arms:
                    raise InputError(
                        f"{file}: hypotheses.{name}: no arm {arm[:60]!r}: there are "
                        f"{', '.join(config.arms)}"
                    )


def _check_values(file: Path, config: StudyConfig, configs: dict[str, Config]) -> None:
    for name, hypothesis in config.hypotheses.items():
        for prediction in hypothesis.predictions:
            arms = {arm: configs[arm] for arm in (prediction.arm, *prediction.than)}
            try:
                check_value(prediction.kind, prediction.value, arms)
            except InputError as error:
                raise InputError(f"{file}: hypotheses.{name}: {prediction.kind}: {error}") from None


def _base_settings(preset: str) -> Config:
    """Return the settings that all others are laid over."""
    if preset != PRESENT:
        return load_preset(preset)
    with nothing_prepared(Path()):  # else it may have the settings of another study's experiment
        return load()


def _plan(
    file: Path,
    config: StudyConfig,
    base: Config,
    arm: str,
    seed: int,
    declared: frozenset[str],
) -> PlannedRun:
    values = base.model_dump(mode="json")
    for key, value in (config.settings | config.arms[arm] | {SEED: seed}).items():
        section, _, name = key.partition(".")
        if section == "host" or (key == SEED and SEED in config.settings | config.arms[arm]):
            raise InputError(
                f"{file}: arm {arm}: {key} is not of an arm: host.* is set in params.yaml, and "
                "seeds in `seeds`"
            )
        if not name or "." in name or not isinstance(values.get(section), dict):
            raise InputError(f"{file}: arm {arm}: {key[:60]!r}: write section.key")
        values[section][name] = value
    checked = from_values(values, f"{file}: arm {arm}")
    flat = flatten(checked.model_dump(mode="json"))
    shared = {
        key: value
        for key, value in flat.items()
        if key.split(".")[0] in declared or ".".join(key.split(".")[:2]) in declared
    }
    return PlannedRun(file.stem, arm, seed, checked, json.dumps(shared, sort_keys=True))


def _declared(stage: str) -> frozenset[str]:
    """Return the settings that dvc.yaml declares for a stage."""
    stages = read_yaml(paths.PIPELINE, "run in a checkout").get("stages") or {}
    entries = (stages.get(stage) or {}).get("params") or []
    return frozenset(entry for entry in entries if isinstance(entry, str))
