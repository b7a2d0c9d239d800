"""Stage tokenizer: warm up the VQ tokenizer alone (GEAR stage 0)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gear import paths
from gear.config import BadInput, Config
from gear.data.sampling_plan import Plan
from gear.data.shards import read_split
from gear.stages.conditions import mirrored
from gear.stages.training import discriminator_for, open_work, perceptual_loss, write_models
from gear.tokenizer.model import Tokenizer
from gear.training.checkpoints import load_weights, read_config
from gear.training.engines import Average, build_engine, join_world
from gear.training.loop import Feed, train
from gear.training.recipes import RECIPES
from gear.training.step import JointStep


def start_tokenizer(config: Config) -> Tokenizer:
    """A fresh tokenizer, or the one that `tokenizer.init` names. Raises `BadInput` where that is another one or of another shape."""
    tokenizer, init = Tokenizer(config.tokenizer), config.tokenizer.init
    if not init.path:
        return tokenizer
    file = Path(init.path)
    if not file.is_file():
        raise BadInput(f"tokenizer.init.path: no file {file}: name the model.safetensors that `gear import` wrote")
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != init.sha256:
        raise BadInput(f"tokenizer.init: {file} has sha256 {actual}, params.yaml says {init.sha256 or '(nothing)'}")
    saved = read_config(file.parent)["tokenizer"]
    for key in ("quantizer", "codes", "code_dim", "base", "multipliers", "blocks", "z_channels"):
        wanted = config.tokenizer.model_dump(mode="json")[key]
        if saved[key] != wanted:
            raise BadInput(f"tokenizer.init: {file} has {key} {saved[key]}, params.yaml says {wanted}")
    load_weights(tokenizer, file.parent)
    return tokenizer


def run(config: Config) -> None:
    """Shards → `data/models/tokenizer`: EMA tokenizer, discriminator if it joined, curves."""
    world = join_world(config)
    split = read_split(paths.SHARDS / "train")
    tokenizer = start_tokenizer(config).to(world.device)
    engine = build_engine(tokenizer, config, world, lr=config.tokenizer.lr, batch=config.tokenizer.batch)
    discriminator, discriminator_engine = discriminator_for(config, world, batch=config.tokenizer.batch, last_step=config.tokenizer.steps)
    step = JointStep(
        config,
        RECIPES["gear"],
        tokenizer=tokenizer,
        perceptual=perceptual_loss(config, world),
        tokenizer_engine=engine,
        discriminator_engine=discriminator_engine,
        gan_from=config.gan.start_step,
    )
    average = Average(tokenizer, config.train.ema)
    work = open_work("tokenizer", config, world, ["run", "tokenizer", "loss", "gan", "train", "health"], [paths.SHARDS])
    plan = Plan(split.labels, config.tokenizer.batch, config.run.seed, mirrored(config, split))
    rows = train(
        "tokenizer",
        config,
        step,
        Feed(split, plan, world),
        steps=config.tokenizer.steps,
        lrs={"tokenizer": config.tokenizer.lr, "discriminator": config.gan.lr},
        averages={"tokenizer": average},
        work=work,
        codes=config.tokenizer.codes,
        log=paths.WORK / "logs" / "tokenizer.jsonl",
    )
    write_models(paths.TOKENIZER, config, world, rows, tokenizer=average.weights, discriminator=discriminator)
    work.finish()
