"""Stage codebook: measure codebook health, drift of code usage, and alignment with teachers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gear import paths
from gear.core.device import pick_device
from gear.core.files import write_json
from gear.core.model_folder import read_config
from gear.core.ranks import join_ranks
from gear.data.shards import read_split
from gear.evaluation.alignment_analysis import IMAGES, AnalysedModels, analyse_alignment
from gear.evaluation.codebook import churn, codebook_health, soft_support
from gear.evaluation.metric_protocol import absent_records, describe
from gear.evaluation.token_drift import measure_token_drift
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.params import Config
from gear.tokenizer.inference import encode_images, load_tokenizer

TOKEN_IMAGES = 50_000  # maximum number of training images whose tokens are counted
SUPPORT_IMAGES = 32  # evenly spaced training images whose soft assignment is measured


def run(config: Config) -> None:
    """Write `reports/codebook.json` (headline) and `reports/codebook-details.json`."""
    codes = config.tokenizer.codes
    ranks, device = join_ranks(config.host), pick_device(config.host)
    warm = load_tokenizer(paths.TOKENIZER / "tokenizer").to(device)
    joint = load_tokenizer(paths.JOINT / "tokenizer").to(device)
    temperature = read_config(paths.JOINT / "tokenizer")["temperature"]
    train = read_split(paths.SHARDS / "train")
    pixels = train.subset(TOKEN_IMAGES)
    tokens = {
        "warm": encode_images(warm, pixels, ranks),
        "joint": encode_images(joint, pixels, ranks),
        "samples": np.load(paths.SAMPLES / "tokens.npy"),
    }
    if not ranks.is_rank_zero:
        return
    generator = load_generator(paths.JOINT / "generator").to(device)
    details: dict[str, Any] = {name: codebook_health(part, codes) for name, part in tokens.items()}
    details["temperature"] = temperature
    few = train.subset(SUPPORT_IMAGES)[:]
    details["support"] = {
        name: soft_support(model, few, temperature)
        for name, model in (("warm", warm), ("joint", joint))
    }
    details["churn"] = churn(tokens["warm"], tokens["joint"])
    classes = None  # captions of samples are those of validation images, as they come
    if config.data.condition == "class":  # samples are balanced over classes, images may not be
        classes = (train.labels[pixels.indices], np.load(paths.SAMPLES / "labels.npy"))
    details["drift"] = {
        f"{old} to {new}": measure_token_drift(
            tokens[old],
            tokens[new],
            codes,
            config.run.seed,
            paths.DRIFT_PAGES / f"{old}-{new}.html",
            labels,
        )
        for old, new, labels in (("warm", "joint", None), ("joint", "samples", classes))
    }
    val = read_split(paths.SHARDS / "val")
    images = val.distinct(IMAGES)
    conditions = conditions_for(val, config.data.condition, paths.FEATURES)
    details["representation"] = analyse_alignment(
        AnalysedModels(warm, joint, generator),
        config.teacher.encoders,
        images,
        lambda positions: conditions(images.indices[positions]),
    )
    for row in details["representation"]:
        for name, record in absent_records(row).items():
            print(f"{name} of {row['features']} and {row['teacher']}: {describe(record)}")
    write_json(paths.REPORTS / "codebook-details.json", details)
    headline = {name: details["joint"][name] for name in ("usage", "perplexity")}
    write_json(paths.CODEBOOK_METRICS, headline)
    print(", ".join(f"{name} {value:.4g}" for name, value in headline.items()))
