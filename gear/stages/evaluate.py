"""Stage evaluate: samples and reconstructions measured, each value with its protocol."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from gear import paths
from gear.alignment.teachers import build_encoder
from gear.config import Config
from gear.data.shards import Split, read_split
from gear.evaluation import frechet, manifold
from gear.evaluation.models import bits_an_image, images_of, next_token_nats, pooled_features, to_tensor, tokens_of
from gear.evaluation.protocol import Metric
from gear.stages.files import write_json
from gear.tokenizer.model import Tokenizer
from gear.training.checkpoints import load_generator, load_tokenizer

# with usage and perplexity, the eight columns of `dvc exp show`
HEADLINE = ("fd", "coverage", "memorised", "rfd", "psnr", "ntp_bits")


def run(config: Config) -> None:
    """Samples, features, shards and models → `reports/metrics.json` (headline) and `reports/protocols.json` (all records)."""
    encoder, size = build_encoder(), config.teacher.input_size
    base = json.loads((paths.FEATURES / "protocol.json").read_text())
    drawn = json.loads((paths.SAMPLES / "protocol.json").read_text())
    reference = np.load(paths.FEATURES / "reference.npz")
    train, val, samples = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val"), read_split(paths.SAMPLES)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer")
    pixels = {name: split.images(np.arange(len(split))) for name, split in (("train", train), ("val", val), ("samples", samples))}
    seed, k = config.run.seed, config.evaluate.neighbours
    fake, real = pooled_features(encoder, pixels["samples"], size), reference["features"]
    wide = {**base, **drawn}
    neighbours = {**wide, "k": k}
    metrics = {
        "fd": Metric(frechet.frechet_distance(*frechet.statistics(fake), reference["mean"], reference["cov"]), wide),
        "fd_floor": Metric(float(reference["floor"]), {**base, "n": len(train) // 2, "against": "the other half"}),
        "fd_untrained": Metric(_untrained(config, tokenizer, encoder, reference), {**wide, "seeds": seed, "weights": "uniform codes"}),
        "coverage": Metric(manifold.coverage(real, fake, k), neighbours),
        "recall": Metric(manifold.recall(real, fake, k), neighbours),
    }
    metrics |= _copies(config, pixels, drawn) | _reconstruction(config, tokenizer, encoder, pixels, reference, base)
    metrics |= _likelihood(tokenizer, val, pixels["val"])
    write_json(paths.METRICS, {name: metrics[name].value for name in HEADLINE})
    write_json(paths.REPORTS / "protocols.json", {name: metric.record() for name, metric in metrics.items()})
    for name, metric in metrics.items():
        print(f"{name:18s} {metric.value:.5g}")


def _untrained(config: Config, tokenizer: Tokenizer, encoder: Any, reference: Any) -> float:
    """FD of uniform codes: the generator's output head starts at zero, so an untrained one draws exactly these."""
    random = np.random.default_rng(config.run.seed)
    tokens = random.integers(0, config.tokenizer.codes, (config.sample.n, config.grid**2))
    features = pooled_features(encoder, images_of(tokenizer, tokens), config.teacher.input_size)
    return frechet.frechet_distance(*frechet.statistics(features), reference["mean"], reference["cov"])


def _copies(config: Config, pixels: dict[str, np.ndarray], drawn: dict[str, Any]) -> dict[str, Metric]:
    known = pixels["train"]
    if config.data.flip:
        known = np.concatenate([known, known[:, :, ::-1]])
    unseen = manifold.nearest(pixels["val"], known)
    threshold = manifold.copy_threshold(unseen)
    share = float((manifold.nearest(pixels["samples"], known) < threshold).mean())
    rule = {
        "rule": "pixel RMSE to the nearest training image, mirrored ones too, under the closest 1 % of validation",
        "threshold": threshold,
    }
    return {"memorised": Metric(share, {**drawn, **rule}), "memorised_by_rule_val": Metric(float((unseen < threshold).mean()), rule)}


def _reconstruction(
    config: Config, tokenizer: Tokenizer, encoder: Any, pixels: dict[str, np.ndarray], reference: Any, base: dict[str, Any]
) -> dict[str, Metric]:
    rebuilt = {name: images_of(tokenizer, tokens_of(tokenizer, pixels[name])) for name in ("train", "val")}
    features = pooled_features(encoder, rebuilt["train"], config.teacher.input_size)
    a, b = (to_tensor(x).add(1).div(2) for x in (rebuilt["val"], pixels["val"]))
    protocol = {"split": "val", "n": len(b), "crop": "centre", "rounding": "nearest uint8", "weights": "EMA"}
    each = torch.stack([peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)])
    return {
        "rfd": Metric(
            frechet.frechet_distance(*frechet.statistics(features), reference["mean"], reference["cov"]),
            {**base, "n": len(features), "split": "train", "weights": "EMA", "rounding": "nearest uint8"},
        ),
        "psnr": Metric(float(each.clamp(max=100).mean()), {**protocol, "mean": "over images, dB"}),
        "ssim": Metric(_ssim(a, b), {**protocol, "window": "gaussian 11, sigma 1.5"}),
    }


def _ssim(first: torch.Tensor, second: torch.Tensor) -> float:
    value = structural_similarity_index_measure(first, second, data_range=1.0)
    assert isinstance(value, torch.Tensor)
    return float(value)


def _likelihood(tokenizer: Tokenizer, val: Split, pixels: np.ndarray) -> dict[str, Metric]:
    generator = load_generator(paths.GENERATOR / "generator")
    tokens = tokens_of(tokenizer, pixels)
    nats = next_token_nats(generator, tokens, val.labels)
    protocol = {"split": "val", "n": len(val), "codes": generator.codes, "tokens": generator.tokens, "weights": "EMA", "labels": "given"}
    return {
        "ntp_nats": Metric(nats, protocol),
        "ntp_bits": Metric(bits_an_image(nats, generator.tokens), {**protocol, "unit": "bits an image"}),
    }
