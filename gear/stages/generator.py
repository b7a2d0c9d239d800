"""Stage generator: the generator alone on the frozen EMA tokenizer (GEAR stage 2); may be 0 steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from gear import paths
from gear.core.files import replace_folder
from gear.core.model_folder import load_weights, read_config
from gear.data.shards import load_manifest, read_split
from gear.generator.conditions import conditions_for, mirrored
from gear.joint.fd_curve import fd_probe
from gear.joint.model import guided_generator, teacher_widths, write_models
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.joint.token_cache import cached_tokens
from gear.params import Config
from gear.tokenizer.inference import load_tokenizer
from gear.training.batches import BatchLoader, ClassBalancedSampler
from gear.training.distributed import join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine
from gear.training.loop import train
from gear.training.run import open_work


def run(config: Config) -> None:
    """`data/models/joint` → `data/models/generator`: the tokenizer unchanged, the generator trained on."""
    if config.generator.steps == 0:  # config refuses this together with start: scratch
        replace_folder(paths.GENERATOR, _copy_joint)
        return
    world = join_process_group(config)
    split = read_split(paths.SHARDS / "train")
    classes = load_manifest(paths.SHARDS)["classes"]
    features, conditions = (
        np.load(paths.FEATURES / "train.npy", mmap_mode="r"),
        conditions_for(split, config.data.condition, paths.FEATURES),
    )
    temperature = read_config(paths.JOINT / "tokenizer")["temperature"]
    tokenizer = load_tokenizer(paths.JOINT / "tokenizer").to(world.device)
    guided = guided_generator(config, len(classes), teacher_widths())
    if config.generator.start == "joint":
        load_weights(guided.generator, paths.JOINT / "generator")
        load_weights(guided.projector, paths.JOINT / "projector")
    engine = build_engine(
        guided.to(world.device),
        config,
        world,
        lr=config.joint.lr_generator,
        batch=config.joint.batch,
    )
    average = EMA(guided, config.train.ema)
    work = open_work(
        "generator",
        config,
        world,
        ["run", "generator", "joint", "train", "health"],
        [paths.SHARDS, paths.FEATURES, paths.JOINT],
    )
    frozen = RECIPES["llamagen_repa" if RECIPES[config.joint.recipe].hard_alignment else "llamagen"]
    plan = ClassBalancedSampler(
        split.labels,
        config.joint.batch,
        config.run.seed + 2,
        mirrored(split, config.data.condition, flip=config.data.flip),
    )
    tokens = cached_tokens(config, world, tokenizer, paths.JOINT / "tokenizer", split)
    rows = train(
        "generator",
        config,
        JointStep(config, frozen, tokenizer=tokenizer, perceptual=None, generator_engine=engine),
        BatchLoader(split, plan, world, features=features, condition=conditions, tokens=tokens),
        steps=config.generator.steps,
        lrs={"generator": config.joint.lr_generator},
        averages={"guided": average},
        work=work,
        codes=config.tokenizer.codes,
        log=paths.WORK / "logs" / "generator.jsonl",
        probe=fd_probe(config, world, tokenizer, guided, conditions),
    )
    write_models(
        paths.GENERATOR,
        config,
        world,
        rows,
        tokenizer_shape=tokenizer.config,
        tokenizer=tokenizer.state_dict(),
        guided=average.weights,
        classes=classes,
        temperature=temperature,
    )
    work.finish()


def _copy_joint(draft: Path) -> None:
    for name in ("tokenizer", "generator", "projector"):
        shutil.copytree(paths.JOINT / name, draft / name)
    (draft / "curves.jsonl").write_text("")
