"""Stage joint: GEAR's joint training, or the recipe it is compared with (GEAR stage 1)."""

from __future__ import annotations

import numpy as np

from gear import paths
from gear.data.images import to_tensor
from gear.data.rows import evenly_spaced
from gear.data.shards import load_manifest, read_split
from gear.generator.conditions import conditions_for, mirrored
from gear.joint.fd_curve import fd_probe
from gear.joint.model import guided_generator, teacher_widths, write_models
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.joint.temperature import find_temperature
from gear.joint.token_cache import cached_tokens
from gear.params import Config
from gear.tokenizer.inference import load_tokenizer
from gear.training.autoencoder import discriminator_for, perceptual_loss
from gear.training.batches import BatchLoader, ClassBalancedSampler
from gear.training.distributed import join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine
from gear.training.loop import train
from gear.training.run import open_work


def run(config: Config) -> None:
    """Shards, teacher features and the warm tokenizer → `data/models/joint`: both models (EMA) and curves."""
    world = join_process_group(config)
    recipe, batch = RECIPES[config.joint.recipe], config.joint.batch
    split = read_split(paths.SHARDS / "train")
    classes = load_manifest(paths.SHARDS)["classes"]
    features, conditions = (
        np.load(paths.FEATURES / "train.npy", mmap_mode="r"),
        conditions_for(split, config.data.condition, paths.FEATURES),
    )
    tokenizer = load_tokenizer(paths.TOKENIZER / "tokenizer").to(world.device)
    guided = guided_generator(config, len(classes), teacher_widths()).to(world.device)
    temperature = find_temperature(
        config.joint.temperature,
        tokenizer,
        to_tensor(split.part(evenly_spaced(len(split), 16))[:], tokenizer),
    )
    generator_engine = build_engine(
        guided, config, world, lr=config.joint.lr_generator, batch=batch
    )
    tokenizer_engine = discriminator_engine = None
    averages = {"guided": EMA(guided, config.train.ema)}
    warm_steps = config.tokenizer.steps
    if recipe.tokenizer_trains:
        tokenizer_engine = build_engine(
            tokenizer.train(), config, world, lr=config.joint.lr_tokenizer, batch=batch
        )
        averages["tokenizer"] = EMA(tokenizer, config.train.ema)
        _, discriminator_engine = discriminator_for(
            config,
            world,
            batch=batch,
            last_step=warm_steps + config.joint.steps,
            saved=paths.TOKENIZER / "discriminator",
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
    tokens = (
        None
        if recipe.tokenizer_trains
        else cached_tokens(config, world, tokenizer, paths.TOKENIZER / "tokenizer", split)
    )
    plan = ClassBalancedSampler(
        split.labels,
        batch,
        config.run.seed + 1,
        mirrored(split, config.data.condition, flip=config.data.flip),
    )
    inputs = [paths.SHARDS, paths.FEATURES, paths.TOKENIZER]
    work = open_work(
        "joint",
        config,
        world,
        ["run", "text", "tokenizer", "loss", "gan", "generator", "joint", "train", "health"],
        inputs,
    )
    rows = train(
        "joint",
        config,
        step,
        BatchLoader(split, plan, world, features=features, condition=conditions, tokens=tokens),
        steps=config.joint.steps,
        lrs={
            "tokenizer": config.joint.lr_tokenizer,
            "generator": config.joint.lr_generator,
            "discriminator": config.gan.lr,
        },
        averages=averages,
        work=work,
        codes=config.tokenizer.codes,
        log=paths.WORK / "logs" / "joint.jsonl",
        probe=fd_probe(config, world, tokenizer, guided, conditions),
    )
    weights = averages["tokenizer"].weights if recipe.tokenizer_trains else tokenizer.state_dict()
    write_models(
        paths.JOINT,
        config,
        world,
        rows,
        tokenizer_shape=tokenizer.config,
        tokenizer=weights,
        guided=averages["guided"].weights,
        classes=classes,
        temperature=temperature,
    )
    work.finish()
