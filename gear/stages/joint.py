"""Stage joint: train tokenizer and generator together, by GEAR or another recipe (GEAR stage 1)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gear import paths
from gear.data.images import to_tensor
from gear.data.row_selection import evenly_spaced
from gear.joint.dataset import read_joint_dataset, training_code
from gear.joint.guidance_gradient import gradient_probe
from gear.joint.model import build_guided_generator, saved_generator
from gear.joint.quality_curve import quality_hook
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.joint.temperature import find_temperature
from gear.joint.token_cache import cached_tokens
from gear.params import Config, nearest_preset
from gear.tokenizer.inference import load_tokenizer
from gear.training.autoencoder import build_autoencoder
from gear.training.fingerprint import Identity, identify
from gear.training.loop import Training
from gear.training.run import TrainingSettings, open_training, saved_tokenizer

CALIBRATION_IMAGES = 16  # to find joint.temperature on, if it is set as a support


def identity(config: Config) -> Identity:
    """Return the identity of this training, which names its resumable state."""
    inputs = {
        "data/shards": paths.SHARDS,
        "data/features": paths.FEATURES,
        "data/models/tokenizer/tokenizer": paths.TOKENIZER / "tokenizer",
        "data/models/tokenizer/discriminator": paths.TOKENIZER / "discriminator",
    }
    code = training_code(paths.FEATURES)
    return identify("joint", config.model_dump(mode="json"), inputs, code)


def run(config: Config, start_from: Path | None = None) -> None:
    """Write `data/models/joint` from shards, features and tokenizer: averaged models and curve."""
    joint, recipe = config.joint, RECIPES[config.joint.recipe]
    settings = TrainingSettings(
        config.run, config.train, config.host, config.health, joint.steps, joint.batch
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
    tokenizer = load_tokenizer(paths.TOKENIZER / "tokenizer", config.tokenizer.codes)
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
    guided = new_guided().to(training.device)
    images = data.split.part(evenly_spaced(len(data.split), CALIBRATION_IMAGES))[:]
    temperature = find_temperature(joint.temperature, tokenizer, to_tensor(images, tokenizer))
    engine = training.engine(guided, joint.lr_generator)
    averages = {"guided": training.ema(guided)}
    autoencoder = tokens = gradient = None
    if recipe.tokenizer_trains:
        autoencoder = build_autoencoder(
            training,
            tokenizer,
            config.loss,
            config.gan,
            lr=joint.lr_tokenizer,
            earlier_steps=config.tokenizer.steps,
            discriminator=paths.TOKENIZER / "discriminator",
        )
        averages["tokenizer"] = training.ema(tokenizer)
        if recipe.readout != "none":
            gradient = gradient_probe(
                data.validation,
                autoencoder.own_loss,
                readout=recipe.readout,
                temperature=temperature,
                weight=joint.lambda_tok,
            )
    else:
        tokens = cached_tokens(
            tokenizer,
            data.split,
            training.context,
            cache=paths.TOKENS,
            contents=(paths.SHARDS, paths.TOKENIZER / "tokenizer/model.safetensors"),
            grid=config.grid,
            flip=config.data.flip,
            portable=config.train.portable,
        )
    step = JointStep(
        recipe,
        joint,
        engine,
        bf16=config.train.bf16,
        autoencoder=autoencoder,
        temperature=temperature,
    )
    hook = quality_hook(
        training,
        joint,
        paths.REFERENCE,
        tokenizer=tokenizer,
        new_guided=new_guided,
        conditions=data.conditions,
        validation=data.validation,
        gradient=gradient,
    )
    rows = Training(training, step, averages=averages, codes=config.tokenizer.codes, hook=hook).fit(
        data.loader(training, config.teacher, grid=config.grid, seed_offset=1, tokens=tokens)
    )
    weights = averages["tokenizer"].weights if recipe.tokenizer_trains else tokenizer.state_dict()
    models = {
        "tokenizer": saved_tokenizer(weights, tokenizer.config, temperature),
        **saved_generator(
            averages["guided"].weights,
            guided.generator,
            condition=config.data.condition,
            text=config.text.model_dump(mode="json"),
            class_names=data.class_names,
        ),
    }
    training.finish(paths.JOINT, models, rows, hook.protocol if hook else None)
