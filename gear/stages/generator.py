"""Stage generator: the generator alone on the frozen EMA tokenizer (GEAR stage 2); may be 0 steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from gear import paths
from gear.config import Config
from gear.data.sampling_plan import Plan
from gear.data.shards import load_manifest, read_split
from gear.stages.conditions import conditions_of, mirrored
from gear.stages.files import replace_folder
from gear.stages.training import cached_tokens, fd_probe, guided_generator, open_work, teacher_widths, write_models
from gear.training.checkpoints import load_tokenizer, load_weights, read_config
from gear.training.engines import Average, build_engine, join_world
from gear.training.loop import Feed, train
from gear.training.recipes import RECIPES
from gear.training.step import JointStep


def run(config: Config) -> None:
    """`data/models/joint` → `data/models/generator`: the tokenizer unchanged, the generator trained on."""
    if config.generator.steps == 0:  # config refuses this together with start: scratch
        replace_folder(paths.GENERATOR, _copy_joint)
        return
    world = join_world(config)
    split = read_split(paths.SHARDS / "train")
    classes = load_manifest(paths.SHARDS)["classes"]
    features, conditions = np.load(paths.FEATURES / "train.npy", mmap_mode="r"), conditions_of(config, split)
    temperature = read_config(paths.JOINT / "tokenizer")["temperature"]
    tokenizer = load_tokenizer(paths.JOINT / "tokenizer").to(world.device)
    guided = guided_generator(config, len(classes), teacher_widths())
    if config.generator.start == "joint":
        load_weights(guided.generator, paths.JOINT / "generator")
        load_weights(guided.projector, paths.JOINT / "projector")
    engine = build_engine(guided.to(world.device), config, world, lr=config.joint.lr_generator, batch=config.joint.batch)
    average = Average(guided, config.train.ema)
    work = open_work(
        "generator", config, world, ["run", "generator", "joint", "train", "health"], [paths.SHARDS, paths.FEATURES, paths.JOINT]
    )
    frozen = RECIPES["llamagen_repa" if RECIPES[config.joint.recipe].hard_alignment else "llamagen"]
    plan = Plan(split.labels, config.joint.batch, config.run.seed + 2, mirrored(config, split))
    tokens = cached_tokens(config, world, tokenizer, paths.JOINT / "tokenizer", split)
    rows = train(
        "generator",
        config,
        JointStep(config, frozen, tokenizer=tokenizer, perceptual=None, generator_engine=engine),
        Feed(split, plan, world, features=features, condition=conditions, tokens=tokens),
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
