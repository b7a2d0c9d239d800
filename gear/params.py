"""Load, check and write `params.yaml`; presets are overlays on the defaults."""

from __future__ import annotations

import json
import os
import textwrap
from contextlib import suppress
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from gear import paths
from gear.core.errors import InputError
from gear.core.files import read_json, replace_file
from gear.core.host_config import HostConfig, RunConfig, require_trackers
from gear.core.settings import Section, dotted_key, faults, parse_section, refuse_truth_values
from gear.core.yaml_text import parse_yaml, read_yaml
from gear.encoders.config import TeachersConfig, TextConfig
from gear.evaluation.config import EvaluateConfig
from gear.generator.config import GeneratorConfig, SampleConfig
from gear.ingest.config import PACKAGED, PACKAGED_IN_PROJECT, DataConfig
from gear.joint.config import SUPPORT_LIMIT, JointConfig, SupportConfig
from gear.joint.recipes import RECIPES
from gear.losses.config import GanConfig, LossConfig, most_discriminator_layers
from gear.paths import PARAMS
from gear.tokenizer.config import TokenizerConfig
from gear.training.config import HealthConfig, TrainConfig

ABSENT_SHOWN = 6  # settings that an error message lists
NEUTRAL = ("host", "health")  # sections that no stage declares: they change no result
MOVED = {  # keys of earlier versions, and what they are called now
    "run.device": "host.device",
    "data.workers": "host.workers",
    "sample.batch": "host.sample_batch",
    "train.zero_stage": "host.zero_stage",
    "train.log_every": "host.log_every",
    "train.checkpoint_every": "host.checkpoint_every",
    "generator.checkpointing": "host.activation_checkpointing",
}
# keys of `data` that say what the images are
OF_THE_IMAGES = ("source", "root", "follow_links", "condition", "caption_key")
MOST_WEIGHTS = 100 * 10**9  # parameters of a generator
MOST_CHANNELS = 8192  # channels of a level of the tokenizer
BASE = "extends"  # key of a preset that names the preset it extends


class Config(Section):
    """Every setting of a run; composes the sections of all components."""

    run: RunConfig = Field(RunConfig(), description="The run as a whole.")
    host: HostConfig = Field(
        HostConfig(), description="How this machine does the work; no stage depends on it."
    )
    data: DataConfig = Field(DataConfig(), description="The images and how they become shards.")
    text: TextConfig = Field(
        TextConfig(), description="Frozen text encoder; unused if data.condition is class."
    )
    teacher: TeachersConfig = Field(
        TeachersConfig(), description="Frozen encoders whose features guide the training."
    )
    tokenizer: TokenizerConfig = Field(
        TokenizerConfig(), description="The tokenizer and its warm-up."
    )
    loss: LossConfig = Field(LossConfig(), description="Weights of the tokenizer's loss.")
    gan: GanConfig = Field(GanConfig(), description="The PatchGAN discriminator.")
    generator: GeneratorConfig = Field(
        GeneratorConfig(), description="The generator and its training on the frozen tokenizer."
    )
    joint: JointConfig = Field(
        JointConfig(), description="Joint training of tokenizer and generator."
    )
    train: TrainConfig = Field(TrainConfig(), description="What all trainings share.")
    sample: SampleConfig = Field(SampleConfig(), description="How images are sampled.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="The evaluation protocol.")
    health: HealthConfig = Field(
        HealthConfig(), description="When training stops because the codebook collapses."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        packaged = self.data.root in (PACKAGED, PACKAGED_IN_PROJECT)
        if self.data.source != "openmoji" and (packaged or not self.data.root):
            raise ValueError(
                f"data.source is {self.data.source} and data.root is {self.data.root!r}: "
                "name the folder of its images"
            )
        if self.data.source == "openmoji" and not packaged:
            raise ValueError(
                f"data.source is openmoji and data.root is {self.data.root!r}: set data.root to "
                f"{PACKAGED} ({PACKAGED_IN_PROJECT} in a project of `gear init`), or data.source "
                "to what lies there"
            )
        if self.sample.prompts and self.data.condition == "class":
            raise ValueError(
                "sample.prompts are captions and data.condition is class: set it to caption, "
                "or remove them"
            )
        if self.loss.adaptive and self.host.zero_stage == 3:
            raise ValueError(
                "loss.adaptive needs the decoder's last weights whole: "
                "use host.zero_stage 2 or less"
            )
        if self.host.offload_optimizer and self.host.zero_stage == 0:
            raise ValueError("host.offload_optimizer needs host.zero_stage 1, 2 or 3, not 0")
        if self.host.compile and self.host.zero_stage == 3:
            raise ValueError("host.compile needs whole weights: use host.zero_stage 2 or less")
        if self.host.compile and self.train.portable:
            raise ValueError(
                "train.portable gives the same bits on any processor, and host.compile generates "
                "code for this one: set one of them to false"
            )
        if self.generator.class_dropout == 1:
            raise ValueError(
                "generator.class_dropout is 1: the generator would never see a class or caption"
            )
        weights = 12 * self.generator.layers * self.generator.width**2
        if weights > MOST_WEIGHTS:
            raise ValueError(
                f"generator.layers {self.generator.layers} x generator.width "
                f"{self.generator.width} make {weights / 1e9:.0f} G parameters, over "
                f"{MOST_WEIGHTS / 1e9:.0f} G: no node holds them"
            )
        channels = self.tokenizer.base * max(self.tokenizer.multipliers)
        if channels > MOST_CHANNELS:
            raise ValueError(
                f"tokenizer.base x the largest of tokenizer.multipliers is {channels} channels, "
                f"over {MOST_CHANNELS}"
            )
        if self.sample.n <= self.evaluate.neighbours:
            raise ValueError(
                f"sample.n is {self.sample.n} and evaluate.neighbours is "
                f"{self.evaluate.neighbours}: coverage needs more samples than neighbours"
            )
        for name, batch in (("tokenizer", self.tokenizer.batch), ("joint", self.joint.batch)):
            if 0 < self.data.limit <= batch:
                raise ValueError(
                    f"{name}.batch is {batch} and data.limit is {self.data.limit}: "
                    "a batch would hold the same image several times"
                )
        if self.sample.top_k > self.tokenizer.codes:
            raise ValueError(
                f"sample.top_k is {self.sample.top_k} and tokenizer.codes is "
                f"{self.tokenizer.codes}: there are no more codes to keep"
            )
        largest = SUPPORT_LIMIT * self.tokenizer.codes
        if isinstance(self.joint.temperature, SupportConfig) and (
            self.joint.temperature.support >= largest
        ):
            raise ValueError(
                f"joint.temperature.support is {self.joint.temperature.support:g}: it must be "
                f"under {largest:g}, {SUPPORT_LIMIT} x the {self.tokenizer.codes} codes of "
                "tokenizer.codes"
            )
        if self.train.portable and (self.host.device == "cuda" or self.host.threads not in (0, 2)):
            raise ValueError(
                "train.portable computes on the CPU with two threads: set host.device to auto "
                "and host.threads to 0"
            )
        if self.data.size // self.tokenizer.factor < 2:
            raise ValueError(
                f"data.size {self.data.size} over tokenizer factor {self.tokenizer.factor} "
                "leaves no grid: use fewer multipliers"
            )
        self._check_discriminator()
        return self

    def _check_discriminator(self) -> None:
        """Raise ValueError if the discriminator joins and has too many layers for the images."""
        joint_steps = self.joint.steps if RECIPES[self.joint.recipe].tokenizer_trains else 0
        joins = self.gan.start_step < self.tokenizer.steps + joint_steps
        most = most_discriminator_layers(self.data.size)
        if self.loss.adversarial and joins and self.gan.layers > most:
            raise ValueError(
                f"gan.layers is {self.gan.layers} and data.size is {self.data.size}: the "
                "discriminator's last layers would have no input left, "
                f"{most} is the largest number that fits"
            )

    @property
    def grid(self) -> int:
        """Side of the token grid; an image has grid^2 tokens."""
        return self.data.size // self.tokenizer.factor


def load(path: Path = PARAMS) -> Config:
    """Return the settings of a params file.

    Raises:
        InputError: if the file is absent or a value is not allowed; one line names the key.
    """
    return from_values(read_yaml(path, "write it with `gear preset quickstart`"), str(path))


def load_for_stage(stage: str, path: Path = PARAMS, pipeline: Path = paths.PIPELINE) -> Config:
    """Return the settings that dvc.yaml declares for a stage, with `host` and `health`.

    Reading any other setting raises `UndeclaredParamError`. Outside a checkout (no dvc.yaml) all
    settings are readable.

    Raises:
        InputError: if a value is not allowed, dvc.yaml has no such stage, the file lacks a setting
            that it declares, a training has more images a batch or neighbours than its training
            split has, or a tracker is not installed.
    """
    config = load(path)
    _require_written(config, _declared(stage, pipeline), path)
    if stage in paths.TRAININGS:
        _check_batches(config)
        require_trackers(config.host.trackers)
    return declared_settings(config, stage, pipeline)


def declared_settings(config: Config, stage: str, pipeline: Path = paths.PIPELINE) -> Config:
    """Return a copy of the settings in which only those are readable that a stage declares.

    Without a dvc.yaml, all are readable.

    Raises:
        InputError: if dvc.yaml has no such stage.
    """
    declared = _declared(stage, pipeline)
    return config if declared is None else restrict(config, declared)


def _declared(stage: str, pipeline: Path) -> set[str] | None:
    """Return the sections and keys that dvc.yaml declares for a stage; None without a dvc.yaml."""
    if not pipeline.exists():
        return None
    stages = read_yaml(pipeline, "take it from the repository").get("stages") or {}
    if not isinstance(stages, dict) or not isinstance(stages.get(stage), dict):
        raise InputError(f"{pipeline}: no stage {stage!r}: take it from the repository")
    entries = stages[stage].get("params") or []
    return {entry for entry in entries if isinstance(entry, str)}


def _require_written(config: Config, declared: set[str] | None, source: Path) -> None:
    """Raise `InputError` if a declared setting has its default because the file lacks it.

    DVC compares what the file holds: it would not notice that a default has changed.
    """
    absent = {
        key: value
        for key, value in _defaults(config, "").items()
        if any(key == entry or key.startswith(f"{entry}.") for entry in declared or ())
    }
    if absent:
        shown = [f"{key}: {_flow(value)}" for key, value in list(absent.items())[:ABSENT_SHOWN]]
        more = f" and {len(absent) - len(shown)} more" if len(absent) > len(shown) else ""
        raise InputError(
            f"{source} lacks settings that this stage uses: add them, here with their defaults: "
            f"{', '.join(shown)}{more} (DVC would not notice if a default changed)"
        )


def _defaults(part: BaseModel, prefix: str) -> dict[str, Any]:
    """Return the settings that were not given, with their defaults, by dotted name."""
    found: dict[str, Any] = {}
    for name in type(part).model_fields:
        key, value = f"{prefix}{name}", getattr(part, name)
        if isinstance(value, BaseModel):
            found |= _defaults(value, f"{key}.")
        elif name not in part.model_fields_set:
            found[key] = part.model_dump(mode="json")[name]
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                if isinstance(item, BaseModel):
                    found |= _defaults(item, f"{key}.{number}.")
    return found


def require_inputs(stage: str, pipeline: Path = paths.PIPELINE) -> None:
    """Check that a stage's inputs that other stages make exist.

    Raises:
        InputError: if one is missing; the message names it and the command that makes it.
    """
    if not pipeline.exists():
        return
    stages = read_yaml(pipeline, "take it from the repository").get("stages") or {}
    for dependency in (stages.get(stage) or {}).get("deps") or []:
        made = Path(str(dependency))
        if made.parts[0] in ("data", "reports") and not made.exists():
            raise InputError(
                f"{made} is not here, and {stage} reads it: `dvc repro {stage}` makes it first"
            )


def _check_batches(config: Config) -> None:
    """Refuse batches that are larger than the training split, before any training starts."""
    try:
        count = int(read_json(paths.SHARDS / "manifest.json")["train"])
    except (InputError, KeyError, TypeError, ValueError):
        return  # the stage itself says what is wrong with its shards
    for name, batch in (("tokenizer", config.tokenizer.batch), ("joint", config.joint.batch)):
        if batch > count:
            raise InputError(
                f"{PARAMS}: {name}.batch is {batch} and the training split has {count} images: "
                "a batch would hold the same image several times"
            )
    if config.evaluate.neighbours >= count:
        raise InputError(
            f"{PARAMS}: evaluate.neighbours is {config.evaluate.neighbours} and the training split "
            f"has {count} images: an image has {count - 1} neighbours"
        )


def restrict(config: Config, declared: set[str]) -> Config:
    """Return a copy of the settings with only the declared sections and keys readable.

    declared: `section` or `section.key`, as in dvc.yaml.
    """
    changed = {}
    for name in type(config).model_fields:
        section: Section = getattr(config, name)
        if name in declared or name in NEUTRAL:
            continue
        keys = {key.split(".")[1] for key in declared if key.startswith(f"{name}.")}
        changed[name] = section.restricted_to(keys)
    return config.model_copy(update=changed)


def parse(text: str, source: str = str(PARAMS)) -> Config:
    """Return the settings of a YAML text; `source` names it in errors. Raises `InputError`."""
    return from_values(parse_yaml(text.encode("utf-8", "surrogatepass"), source), source)


def from_values(values: dict[str, Any], source: str) -> Config:
    """Return the settings given as nested dictionaries. Raises `InputError`."""
    try:
        refuse_truth_values(Config, values, "")
        return Config.model_validate(values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    except ValidationError as error:
        raise InputError(_one_line(error, source)) from None


def list_presets() -> str:
    """Return the names of the presets, one a line."""
    return "\n".join(sorted(path.stem for path in paths.PRESETS.glob("*.yaml")))


def load_preset(name: str, over: dict[str, Any] | None = None) -> Config:
    """Return the settings of a preset; values in `over` replace its own.

    Raises:
        InputError: if there is no preset of this name, or a value is not allowed.
    """
    return from_values(_merge(_overlay(name), over or {}), str(paths.PRESETS / f"{name}.yaml"))


def nearest_preset(config: Config) -> str:
    """Return the name of the closest preset, such as `tiny`, or `tiny+2` if two settings differ.

    Only settings that the stage declares and that can change a result are compared. Returns "" if
    there are no presets.
    """
    own = result_settings(config)
    differing = {}
    for name in list_presets().split():
        with suppress(InputError):  # skip a preset that is broken or of another version
            values = result_settings(load_preset(name))
            differing[name] = sum(values.get(key) != value for key, value in own.items())
    if not differing:
        return ""
    name = min(differing, key=lambda name: differing[name])
    return f"{name}+{differing[name]}" if differing[name] else name


def apply_preset(name: str) -> str:
    """Write a preset to params.yaml, with all values and comments; return one line a changed key.

    In a project of `gear init`, the settings of its images are kept unless the preset sets them.
    A params.yaml that cannot be read is renamed to params.yaml.broken.
    """
    values = _merge(_images_of_project(), _overlay(name))
    config = from_values(values, str(paths.PRESETS / f"{name}.yaml"))
    old: dict[str, Any] = {}
    kept = ""
    if PARAMS.exists() or PARAMS.is_symlink():
        try:
            old = flatten(read_yaml(PARAMS, ""))
        except InputError as error:
            names = (f"{PARAMS.name}.broken{number or ''}" for number in count())
            broken = next(Path(name) for name in names if not os.path.lexists(name))
            os.replace(PARAMS, broken)
            kept = f"kept what was there as {broken}: {error}\n"
    new = flatten(config.model_dump(mode="json"))
    replace_file(PARAMS, to_yaml(config).encode())
    changed = [
        f"{key}: {old.get(key, '-')} -> {new.get(key, '-')}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]
    return kept + ("\n".join(changed) or f"params.yaml already holds {name}")


def _images_of_project() -> dict[str, Any]:
    """Return the settings of the images of a project; {} in a checkout."""
    if not paths.LOCK.exists():
        return {}
    try:
        values = read_yaml(PARAMS, "").get("data")
        data = parse_section(DataConfig, values, "data.") if isinstance(values, dict) else None
    except InputError:
        data = None
    if data is None:
        return {"data": {"root": PACKAGED_IN_PROJECT}}
    return {"data": {key: getattr(data, key) for key in OF_THE_IMAGES}}


def to_yaml(config: Config) -> str:
    """Return a complete params.yaml: every value, with its field's description as a comment."""
    lines = [
        f"# yaml-language-server: $schema={paths.SCHEMA}",
        "# Every setting of the pipeline. `gear preset NAME` writes this file anew.",
    ]
    for name, field in Config.model_fields.items():
        lines += ["", f"# {field.description}", f"{name}:"]
        lines += _commented(getattr(config, name))
    return "\n".join(lines) + "\n"


def schema() -> str:
    """Return the JSON schema of params.yaml, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2, sort_keys=True) + "\n"


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary with dotted names.

    >>> flatten({"joint": {"steps": 3}, "seed": 0})
    {'joint.steps': 3, 'seed': 0}
    """
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, inner in tree.items()
        for key, value in flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def result_settings(config: Config) -> dict[str, Any]:
    """Return all settings that can change a result, by their dotted names."""
    return {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if key.split(".")[0] not in NEUTRAL
    }


def _overlay(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values of a preset, merged over those of the preset that it extends."""
    file = paths.PRESETS / f"{name}.yaml"
    if not name.replace("-", "").replace("_", "").isalnum() or not file.is_file():
        raise InputError(f"no preset {name!r}: there are {', '.join(list_presets().split())}")
    if name in above:
        raise InputError(f"{file}: extends itself, through {' and '.join(above)}")
    values = read_yaml(file, "take it from the repository")
    base = values.pop(BASE, None)
    return _merge(_overlay(str(base), (*above, name)), values) if base else values


def _merge(below: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            merged[key] = _merge(inner, value)
        else:
            merged[key] = value
    return merged


def _commented(section: BaseModel) -> list[str]:
    lines = []
    for name, field in type(section).model_fields.items():
        sentence = textwrap.wrap(field.description or "", 92)
        lines += [f"  # {line}" for line in sentence]
        value = section.model_dump(mode="json")[name]
        if name == "encoders":  # one mapping a line
            lines += ["  encoders:", *(f"    - {_flow(one)}" for one in value)]
        else:
            lines.append(f"  {name}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _one_line(error: ValidationError, source: str) -> str:
    errors = error.errors(include_url=False)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"]
    missing = {dotted_key(Config, one["loc"]) for one in errors if one["type"] == "missing"}
    found = [fault for fault in faults(Config, error) if not (unknown and fault[0] in missing)]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if unknown:  # first: a misspelled key is also the reason why a key is missing
        key = dotted_key(Config, unknown[0]["loc"])
        if key in MOVED:
            return f"{source}: {key!r} is {MOVED[key]!r} now: rename it{more}"
        return f"{source}: unknown key {key!r}: {_allowed_keys(unknown[0]['loc'])}{more}"
    key, value, message = found[0]
    name = f"{key} = {value}: " if value else f"{key}: " if key else ""
    return f"{source}: {name}{message}{more}"


def _allowed_keys(loc: tuple[Any, ...]) -> str:
    model: Any = Config
    for part in loc[:-1]:
        fields = getattr(model, "model_fields", {})
        inner = fields[str(part)].annotation if str(part) in fields else model
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
