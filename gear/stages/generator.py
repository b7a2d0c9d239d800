"""Stage generator: train the generator alone on the frozen averaged tokenizer (GEAR stage 2)."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from gear import paths
from gear.core.files import replace_folder
from gear.core.model_folder import load_weights, read_config
from gear.joint.dataset import read_joint_dataset, training_code
from gear.joint.model import build_guided_generator, saved_generator
from gear.joint.quality_curve import quality_hook
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.joint.token_cache import cached_tokens
from gear.params import Config, nearest_preset
from gear.tokenizer.inference import load_tokenizer
from gear.training.fingerprint import Identity, identify
from gear.training.loop import Training
from gear.training.run import TrainingSettings, open_training, saved_tokenizer

MODELS = ("tokenizer", "generator", "projector")


def identity(config: Config) -> Identity:
    """Return the identity of this training, which names its resumable state."""
    inputs = {f"data/models/joint/{name}": paths.JOINT / name for name in MODELS}
    inputs |= {"data/shards": paths.SHARDS, "data/features": paths.FEATURES}
    code = training_code(paths.FEATURES)
    return identify("generator", config.model_dump(mode="json"), inputs, code)


def run(config: Config, start_from: Path | None = None) -> None:
    """Write `data/models/generator` from `data/models/joint`: train the generator for more steps.

    With 0 steps the models are copied; the settings refuse that for `generator.start: scratch`.
    """
    if config.generator.steps == 0:
        replace_folder(paths.GENERATOR, _copy_joint)
        return
    joint, steps = config.joint, config.generator.steps
    settings = TrainingSettings(
        config.run, config.train, config.host, config.health, steps, joint.batch
    )
    training = open_training(
        identity(config),
        settings,
        states=paths.STATES,
        work=paths.WORK,
        preset=nearest_preset(config),
        start_from=start_from,
    )
    data = read_joint_dataset(
        paths.SHARDS,
        paths.FEATURES,
        config.teacher,
        condition=config.data.condition,
        flip=config.data.flip,
    )
    temperature = read_config(paths.JOINT / "tokenizer")["temperature"]
    tokenizer = load_tokenizer(paths.JOINT / "tokenizer", config.tokenizer.codes)
    tokenizer = tokenizer.to(training.device)
    new_guided = partial(
        build_guided_generator,
        config.generator,
        codes=config.tokenizer.codes,
        grid=config.grid,
        classes=len(data.class_names),
        empty_caption=data.empty_caption,
        teachers=data.teachers,
        activation_checkpointing=config.host.activation_checkpointing,
    )
    guided = new_guided()
    if config.generator.start == "joint":
        load_weights(guided.generator, paths.JOINT / "generator")
        load_weights(guided.projector, paths.JOINT / "projector")
    engine = training.engine(guided.to(training.device), joint.lr_generator)
    average = training.ema(guided)
    frozen = RECIPES["llamagen_repa" if RECIPES[joint.recipe].hard_alignment else "llamagen"]
    step = JointStep(frozen, joint, engine, bf16=config.train.bf16)
    tokens = cached_tokens(
        tokenizer,
        data.split,
        training.context,
        cache=paths.TOKENS,
        contents=(paths.SHARDS, paths.JOINT / "tokenizer/model.safetensors"),
        grid=config.grid,
        flip=config.data.flip,
        portable=config.train.portable,
    )
    hook = quality_hook(
        training,
        joint,
        paths.REFERENCE,
        tokenizer=tokenizer,
        new_guided=new_guided,
        conditions=data.conditions,
        validation=data.validation,
    )
    rows = Training(
        training, step, averages={"guided": average}, codes=config.tokenizer.codes, hook=hook
    ).fit(data.loader(training, config.teacher, grid=config.grid, seed_offset=2, tokens=tokens))
    models = {
        "tokenizer": saved_tokenizer(tokenizer.state_dict(), tokenizer.config, temperature),
        **saved_generator(
            average.weights,
            guided.generator,
            condition=config.data.condition,
            text=config.text.model_dump(mode="json"),
            class_names=data.class_names,
        ),
    }
    training.finish(paths.GENERATOR, models, rows, hook.protocol if hook else None)


def _copy_joint(draft: Path) -> None:
    for name in MODELS:
        shutil.copytree(paths.JOINT / name, draft / name)
    (draft / "curves.jsonl").write_text("")
