"""Stage tokenizer: warm up the tokenizer alone (GEAR stage 0)."""

from __future__ import annotations

from pathlib import Path

from gear import paths
from gear.data.shards import read_split
from gear.params import Config, nearest_preset
from gear.tokenizer.inference import start_tokenizer
from gear.training.autoencoder import build_autoencoder
from gear.training.batches import BatchLoader, batch_sampler, mirror_mask
from gear.training.ema import whole_weights
from gear.training.fingerprint import AUTOENCODER_CODE, Identity, identify
from gear.training.loop import Training
from gear.training.run import SavedModel, TrainingSettings, open_training, saved_tokenizer


def identity(config: Config) -> Identity:
    """Return the identity of this training, which names its resumable state."""
    inputs = {"data/shards": paths.SHARDS}
    return identify("tokenizer", config.model_dump(mode="json"), inputs, AUTOENCODER_CODE)


def run(config: Config, start_from: Path | None = None) -> None:
    """Write `data/models/tokenizer` from `data/shards`: averaged model, discriminator and curve."""
    section, data = config.tokenizer, config.data
    settings = TrainingSettings(
        config.run, config.train, config.host, config.health, section.steps, section.batch
    )
    training = open_training(
        identity(config),
        settings,
        states=paths.STATES,
        work=paths.WORK,
        preset=nearest_preset(config),
        start_from=start_from,
    )
    split = read_split(paths.SHARDS / "train")
    tokenizer = start_tokenizer(section).to(training.device)
    step = build_autoencoder(training, tokenizer, config.loss, config.gan, lr=section.lr)
    average = training.ema(tokenizer)
    mirror = mirror_mask(split, flip=data.flip, condition=data.condition)
    sampler = batch_sampler(
        split,
        balance=config.train.balance,
        batch=section.batch,
        seed=config.run.seed,
        mirror=mirror,
    )
    rows = Training(training, step, averages={"tokenizer": average}, codes=section.codes).fit(
        BatchLoader(split, sampler, training.context)
    )
    models = {"tokenizer": saved_tokenizer(average.weights, section)}
    if step.discriminator_engine is not None:
        weights = whole_weights(step.discriminator_engine.module)
        models["discriminator"] = SavedModel(weights, {"gan": config.gan.model_dump(mode="json")})
    training.finish(paths.TOKENIZER, models, rows)
