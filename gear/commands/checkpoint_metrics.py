"""Measure a training's averaged weights, with the protocol of `gear evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gear import params, paths
from gear.core.errors import InputError
from gear.core.files import read_json
from gear.core.model_folder import save_model
from gear.data.row_selection import evenly_spaced
from gear.data.shards import load_manifest, read_split
from gear.encoders.efficientnet import build_encoder, pooled_features
from gear.encoders.inception import build_inception
from gear.evaluation import codebook
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.inception_metrics import sample_metrics
from gear.evaluation.inception_statistics import choose_reference, load_training_statistics
from gear.evaluation.metric_protocol import Metric
from gear.evaluation.sample_quality import sample_quality
from gear.generator.conditions import sampling_protocol, sampling_set
from gear.generator.inference import load_generator
from gear.generator.sampling import draw, sample_seeds
from gear.generator.transformer import Generator
from gear.params import Config
from gear.tokenizer.inference import decode_tokens, encode_images, load_tokenizer
from gear.tokenizer.model import Tokenizer


@dataclass(frozen=True)
class Models:
    """A tokenizer, a generator if there is one, and the settings of their run."""

    config: Config
    tokenizer: Tokenizer
    generator: Generator | None
    window: dict[str, float]  # codebook usage and perplexity of training's last closed window


def models_of_state(stage: str, root: Path, state_folder: Path) -> Models:
    """Return the averaged models of a (copied) state.

    A tokenizer that is not trained is that of the previous stage. Settings that the training does
    not declare, such as those of sampling, are read from `root`.

    Raises:
        InputError: if the settings are missing or the weights do not fit them.
    """
    file = state_folder / "settings.json"
    if not file.exists():
        raise InputError(
            f"{stage}: its state has no settings.json: it was started by another version; "
            "resume it with this one"
        )
    config = settings_of_state(root, read_json(file)["config"], str(file))
    state = torch.load(state_folder / "state.pt", weights_only=True, map_location="cpu")
    averages: dict[str, dict[str, torch.Tensor]] = state["averages"]
    if "tokenizer" in averages:
        tokenizer = Tokenizer(config.tokenizer)
        _fill(tokenizer, averages["tokenizer"], stage)
    else:
        before = paths.JOINT if stage == "generator" else paths.TOKENIZER
        tokenizer = load_tokenizer(root / before / "tokenizer")
    generator = None
    if "guided" in averages:
        weights = {
            name.removeprefix("generator."): value
            for name, value in averages["guided"].items()
            if name.startswith("generator.")
        }
        shape: dict[str, Any] = {"classes": len(load_manifest(root / paths.SHARDS)["classes"])}
        if config.data.condition == "caption":
            shape = {"empty_caption": weights["cls_embedding.empty"]}
        codes = config.tokenizer.codes
        generator = Generator(config.generator, codes=codes, grid=config.grid, **shape)
        _fill(generator, weights, stage)
    return Models(config, tokenizer.eval(), generator, state["latest"])


def models_of_stage(folder: Path, root: Path) -> Models:
    """Return the models of a finished stage. Raises `InputError` if they do not fit params.yaml."""
    config = params.load(root / paths.PARAMS)
    tokenizer = load_tokenizer(folder / "tokenizer")
    generator = load_generator(folder / "generator")
    if (tokenizer.config.codes, generator.tokens) != (config.tokenizer.codes, config.grid**2):
        raise InputError(
            f"{folder}: {tokenizer.config.codes} codes, {generator.tokens} tokens, "
            "and params.yaml says otherwise: run `dvc repro`"
        )
    return Models(config, tokenizer, generator, {})


def settings_of_state(root: Path, declared: dict[str, Any], source: str) -> Config:
    """Return the settings that a training declared, merged over those of its checkout."""
    values = params.load(root / paths.PARAMS).model_dump(mode="json")
    return params.from_values(
        {name: {**section, **declared.get(name, {})} for name, section in values.items()}, source
    )


def named_device(name: str) -> torch.device:
    """Return a device: `cpu`, `cuda` or `cuda:N`. Raises `InputError` if it is not available."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], stage: str) -> None:
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{stage}: the saved weights do not fit this version's model, or these shards: {reason}"
        ) from None


def save(models: Models, folder: Path, root: Path) -> None:
    """Write a native checkpoint, for `gear generate --checkpoint` and `tokenizer.init`."""
    settings = models.config.model_dump(mode="json")
    save_model(
        folder / "tokenizer",
        models.tokenizer.state_dict(),
        {"tokenizer": settings["tokenizer"], "temperature": None},
    )
    if models.generator is not None:
        names = load_manifest(root / paths.SHARDS)["classes"]
        shape = {
            "generator": settings["generator"],
            "codes": models.config.tokenizer.codes,
            "grid": models.config.grid,
        }
        shape |= {
            "condition": settings["data"]["condition"],
            "text": settings["text"],
            "classes": len(names),
            "class_names": names,
        }
        save_model(folder / "generator", models.generator.state_dict(), shape)


def measure(
    models: Models, root: Path, *, samples: int, images: int, device: torch.device
) -> dict[str, Metric]:
    """Measure the codebook over training images and, if there is a generator, fresh samples.

    samples, images: number of samples and of training images. Samples are drawn with the run's
    seed, so that values at different steps are comparable.

    Returns:
        usage and perplexity; fd and coverage of samples; fid and inception_score too if
        `evaluate.inception` names weights.
    """
    config, tokenizer = models.config, models.tokenizer.to(device)
    train = read_split(root / paths.SHARDS / "train")
    pixels = train.part(evenly_spaced(len(train), images))
    counts = codebook.histogram(encode_images(tokenizer, pixels), config.tokenizer.codes)
    used = {
        "split": "train",
        "n": len(pixels),
        "codes": config.tokenizer.codes,
        "tokens": config.grid**2,
        "crop": "centre",
        "weights": "EMA",
    }
    metrics = {
        "usage": Metric(codebook.usage(counts), used),
        "perplexity": Metric(codebook.perplexity(counts), used),
    }
    if models.generator is not None:
        metrics |= _fidelity(models, root, samples, device)
    return metrics


def _fidelity(models: Models, root: Path, samples: int, device: torch.device) -> dict[str, Metric]:
    config, generator = models.config, models.generator
    assert generator is not None
    base = read_json(root / paths.REFERENCE / "protocol.json")
    if base["input_size"] != config.evaluate.input_size:
        raise InputError(
            f"{root / paths.REFERENCE} was made at input size {base['input_size']}, "
            f"the run says {config.evaluate.input_size}"
        )
    images = np.unique(read_split(root / paths.SHARDS / "train").first_rows())
    reference = load_feature_reference(root / paths.REFERENCE, images)
    condition = config.data.condition
    wanted = sampling_set(samples, condition, root / paths.SHARDS, root / paths.FEATURES)
    drawn = sampling_protocol(wanted, config.sample, config.run.seed)
    seeds = sample_seeds(config.run.seed, samples)
    tokens = draw(
        generator.to(device), wanted.conditions, seeds, config.sample, config.host.sample_batch
    )
    pixels = decode_tokens(models.tokenizer, tokens)
    features = pooled_features(build_encoder().to(device), pixels, reference.input_size)
    metrics = sample_quality(features, reference, {**base, **drawn}, config.evaluate.neighbours)
    if config.evaluate.inception.path:
        inception = build_inception(config.evaluate.inception).to(device)
        training = load_training_statistics(root / paths.INCEPTION)
        chosen = choose_reference(config.evaluate.reference, training)
        measured = sample_metrics(inception, pixels, chosen, training, drawn, config.run.seed)
        for name in ("fid", "inception_score"):
            metric = measured.get(name)
            if isinstance(metric, Metric):
                metrics[name] = metric
    return metrics
