"""Stage tokenizer: warm up the VQ tokenizer alone (GEAR stage 0)."""

from __future__ import annotations

from gear import paths
from gear.data.shards import read_split
from gear.generator.conditions import mirrored
from gear.joint.model import write_models
from gear.joint.recipes import RECIPES
from gear.joint.step import JointStep
from gear.params import Config
from gear.tokenizer.inference import start_tokenizer
from gear.training.autoencoder import discriminator_for, perceptual_loss
from gear.training.batches import BatchLoader, ClassBalancedSampler
from gear.training.distributed import join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine
from gear.training.loop import train
from gear.training.run import open_work


def run(config: Config) -> None:
    """Shards → `data/models/tokenizer`: EMA tokenizer, discriminator if it joined, curves."""
    world = join_process_group(config)
    split = read_split(paths.SHARDS / "train")
    tokenizer = start_tokenizer(config.tokenizer).to(world.device)
    engine = build_engine(
        tokenizer, config, world, lr=config.tokenizer.lr, batch=config.tokenizer.batch
    )
    discriminator, discriminator_engine = discriminator_for(
        config, world, batch=config.tokenizer.batch, last_step=config.tokenizer.steps
    )
    step = JointStep(
        config,
        RECIPES["gear"],
        tokenizer=tokenizer,
        perceptual=perceptual_loss(config, world),
        tokenizer_engine=engine,
        discriminator_engine=discriminator_engine,
        gan_from=config.gan.start_step,
    )
    average = EMA(tokenizer, config.train.ema)
    work = open_work(
        "tokenizer",
        config,
        world,
        ["run", "tokenizer", "loss", "gan", "train", "health"],
        [paths.SHARDS],
    )
    plan = ClassBalancedSampler(
        split.labels,
        config.tokenizer.batch,
        config.run.seed,
        mirrored(split, config.data.condition, flip=config.data.flip),
    )
    rows = train(
        "tokenizer",
        config,
        step,
        BatchLoader(split, plan, world),
        steps=config.tokenizer.steps,
        lrs={"tokenizer": config.tokenizer.lr, "discriminator": config.gan.lr},
        averages={"tokenizer": average},
        work=work,
        codes=config.tokenizer.codes,
        log=paths.WORK / "logs" / "tokenizer.jsonl",
    )
    write_models(
        paths.TOKENIZER,
        config,
        world,
        rows,
        tokenizer_shape=tokenizer.config,
        tokenizer=average.weights,
        discriminator=discriminator,
    )
    work.finish()
