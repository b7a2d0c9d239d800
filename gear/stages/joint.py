"""Stage joint: GEAR's joint training, or the recipe it is compared with (GEAR stage 1)."""

from __future__ import annotations

import numpy as np

from gear import paths
from gear.config import Config
from gear.data.pixels import evenly, to_tensor
from gear.data.sampling_plan import Plan
from gear.data.shards import load_manifest, read_split
from gear.stages.conditions import conditions_of, mirrored
from gear.stages.training import (
    cached_tokens,
    discriminator_for,
    fd_probe,
    guided_generator,
    open_work,
    perceptual_loss,
    teacher_widths,
    write_models,
)
from gear.training.checkpoints import load_tokenizer
from gear.training.engines import Average, build_engine, join_world
from gear.training.loop import Feed, train
from gear.training.recipes import RECIPES
from gear.training.step import JointStep
from gear.training.temperature import find_temperature


def run(config: Config) -> None:
    """Shards, teacher features and the warm tokenizer → `data/models/joint`: both models (EMA) and curves."""
    world = join_world(config)
    recipe, batch = RECIPES[config.joint.recipe], config.joint.batch
    split = read_split(paths.SHARDS / "train")
    classes = load_manifest(paths.SHARDS)["classes"]
    features, conditions = np.load(paths.FEATURES / "train.npy", mmap_mode="r"), conditions_of(config, split)
    tokenizer = load_tokenizer(paths.TOKENIZER / "tokenizer").to(world.device)
    guided = guided_generator(config, len(classes), teacher_widths()).to(world.device)
    temperature = find_temperature(config.joint.temperature, tokenizer, to_tensor(split.part(evenly(len(split), 16))[:], tokenizer))
    generator_engine = build_engine(guided, config, world, lr=config.joint.lr_generator, batch=batch)
    tokenizer_engine = discriminator_engine = None
    averages = {"guided": Average(guided, config.train.ema)}
    warm_steps = config.tokenizer.steps
    if recipe.tokenizer_trains:
        tokenizer_engine = build_engine(tokenizer.train(), config, world, lr=config.joint.lr_tokenizer, batch=batch)
        averages["tokenizer"] = Average(tokenizer, config.train.ema)
        _, discriminator_engine = discriminator_for(
            config, world, batch=batch, last_step=warm_steps + config.joint.steps, saved=paths.TOKENIZER / "discriminator"
        )
    step = JointStep(
        config,
        recipe,
        tokenizer=tokenizer,
        perceptual=perceptual_loss(config, world) if recipe.tokenizer_trains else None,
        tokenizer_engine=tokenizer_engine,
        generator_engine=generator_engine,
        discriminator_engine=discriminator_engine,
        gan_from=max(0, config.gan.start_step - warm_steps),
        temperature=temperature,
    )
    tokens = None if recipe.tokenizer_trains else cached_tokens(config, world, tokenizer, paths.TOKENIZER / "tokenizer", split)
    plan = Plan(split.labels, batch, config.run.seed + 1, mirrored(config, split))
    inputs = [paths.SHARDS, paths.FEATURES, paths.TOKENIZER]
    work = open_work("joint", config, world, ["run", "text", "tokenizer", "loss", "gan", "generator", "joint", "train", "health"], inputs)
    rows = train(
        "joint",
        config,
        step,
        Feed(split, plan, world, features=features, condition=conditions, tokens=tokens),
        steps=config.joint.steps,
        lrs={"tokenizer": config.joint.lr_tokenizer, "generator": config.joint.lr_generator, "discriminator": config.gan.lr},
        averages=averages,
        work=work,
        codes=config.tokenizer.codes,
        log=paths.WORK / "logs" / "joint.jsonl",
        probe=fd_probe(config, world, tokenizer, guided, conditions),
    )
    weights = averages["tokenizer"].weights if recipe.tokenizer_trains else tokenizer.state_dict()
    write_models(
        paths.JOINT, config, world, rows, tokenizer=weights, guided=averages["guided"].weights, classes=classes, temperature=temperature
    )
    work.finish()
