"""Stage evaluate: samples and reconstructions measured, each value with its protocol."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gear import paths
from gear.core.device import pick_device
from gear.core.files import write_json
from gear.data.rows import batches, evenly_spaced
from gear.data.shards import Split, read_split
from gear.encoders.efficientnet import build_encoder, pooled_features
from gear.encoders.inception import build_inception
from gear.evaluation import coverage, frechet, memorisation
from gear.evaluation.caption_retrieval import Gallery, sample_agreement
from gear.evaluation.clip_score import clip_score
from gear.evaluation.coverage import MANIFOLD_ROWS
from gear.evaluation.inception_metrics import of_reconstructions, of_samples
from gear.evaluation.inception_statistics import load_training, read_reference
from gear.evaluation.likelihood import bits_per_image, next_token_nats
from gear.evaluation.metric import Metric
from gear.evaluation.sample_quality import decoded_features, guidance_sweep
from gear.generator.conditions import conditions_for
from gear.generator.inference import load_generator
from gear.generator.transformer import Generator
from gear.params import Config
from gear.tokenizer.inference import decode_tokens, encode_images, load_tokenizer
from gear.tokenizer.model import Tokenizer

# with usage and perplexity, the eight columns of `dvc exp show`
HEADLINE = (
    "fd",
    "coverage",
    "memorised",
    "rfd",
    "psnr",
    "ntp_bits",
    "fid",
    "inception_score",
)  # the last two with Inception's weights

ENOUGH = 5000  # validation images from which rFD is theirs

REBUILT = (
    50_000  # images of a split, at most, that are reconstructed or compared with the training set
)


def run(config: Config) -> None:
    """Samples, features, shards and models → `reports/metrics.json` (headline) and `reports/protocols.json` (all records)."""
    device, size = pick_device(config.host), config.evaluate.input_size
    encoder = build_encoder().to(device)
    base = json.loads((paths.REFERENCE / "protocol.json").read_text())
    drawn = json.loads((paths.SAMPLES / "protocol.json").read_text())
    reference = np.load(paths.REFERENCE / "efficientnet-lite0.npz")
    train, val, samples = (
        read_split(paths.SHARDS / "train"),
        read_split(paths.SHARDS / "val"),
        read_split(paths.SAMPLES),
    )
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    seed, k = config.run.seed, config.evaluate.neighbours
    fake, real = pooled_features(encoder, samples, size), reference["features"]
    real = real[evenly_spaced(len(real), MANIFOLD_ROWS)]
    wide = {**base, **drawn}
    neighbours = {**wide, "k": k, "reference_rows": len(real)}
    metrics = {
        "fd": Metric(
            frechet.frechet_distance(
                *frechet.statistics(fake), reference["mean"], reference["cov"]
            ),
            wide,
        ),
        "fd_floor": Metric(
            float(reference["floor"]), {**base, "n": len(train) // 2, "against": "the other half"}
        ),
        "fd_untrained": Metric(
            _untrained(config, tokenizer, encoder, reference),
            {**wide, "seeds": seed, "weights": "uniform codes"},
        ),
        "coverage": Metric(coverage.coverage(real, fake, k), neighbours),
        "recall": Metric(coverage.recall(real, fake, k), neighbours),
    }
    metrics |= _copies(config, train, val, samples, drawn)
    metrics |= _rfd(config, tokenizer, encoder, train, val, reference, base) | _fidelity(
        tokenizer, val
    )
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    metrics |= _likelihood(config, tokenizer, generator, val)
    gallery = Gallery(config, encoder, reference) if config.data.condition == "caption" else None
    if gallery:
        metrics |= sample_agreement(config, gallery, fake, wide) | clip_score(
            config.evaluate.clip, samples, device, drawn
        )
    metrics |= guidance_sweep(config, tokenizer, generator, encoder, reference, gallery, wide)
    if config.evaluate.inception.path:
        metrics |= _inception(config, tokenizer, val, samples, drawn)
    write_json(paths.METRICS, {name: metrics[name].value for name in HEADLINE if name in metrics})
    write_json(
        paths.REPORTS / "protocols.json",
        {name: metric.record() for name, metric in metrics.items()},
    )
    for name, metric in metrics.items():
        print(f"{name:18s} {metric.value:.5g}")


def _untrained(config: Config, tokenizer: Tokenizer, encoder: Any, reference: Any) -> float:
    """FD of uniform codes: the generator's output head starts at zero, so an untrained one draws exactly these."""
    random = np.random.default_rng(config.run.seed)
    tokens = random.integers(0, config.tokenizer.codes, (config.sample.n, config.grid**2))
    features = decoded_features(encoder, tokenizer, tokens, config.evaluate.input_size)
    return frechet.frechet_distance(
        *frechet.statistics(features), reference["mean"], reference["cov"]
    )


def _copies(
    config: Config, train: Split, val: Split, samples: Split, drawn: dict[str, Any]
) -> dict[str, Metric]:
    held_out = memorisation.thumbnails(val.part(evenly_spaced(len(val), REBUILT)))
    drawn_ones = memorisation.thumbnails(samples.part(evenly_spaced(len(samples), REBUILT)))
    distances = memorisation.nearest_training_distance(
        np.concatenate([held_out, drawn_ones]), train, mirrored=config.data.flip
    )
    unseen, near = distances[: len(held_out)], distances[len(held_out) :]
    threshold = memorisation.copy_threshold(unseen)
    share = float((near < threshold).mean())
    rule = {
        "rule": "pixel RMSE to the nearest training image, mirrored ones too, under the closest 1 % of validation",
        "side": held_out.shape[1],
        "threshold": threshold,
    }
    return {
        "memorised": Metric(share, {**drawn, **rule}),
        "memorised_by_rule_val": Metric(float((unseen < threshold).mean()), rule),
    }


def _rfd(
    config: Config,
    tokenizer: Tokenizer,
    encoder: Any,
    train: Split,
    val: Split,
    reference: Any,
    base: dict[str, Any],
) -> dict[str, Metric]:
    """FD of validation reconstructions; of training ones where the validation split is too small for a covariance."""
    name, split = ("val", val) if len(val) >= ENOUGH else ("train", train)
    chosen = split.part(evenly_spaced(len(split), REBUILT))
    parts = (
        decode_tokens(tokenizer, encode_images(tokenizer, chosen[p])) for p in batches(len(chosen))
    )
    features = np.concatenate(
        [pooled_features(encoder, part, config.evaluate.input_size) for part in parts]
    )
    value = frechet.frechet_distance(
        *frechet.statistics(features), reference["mean"], reference["cov"]
    )
    return {
        "rfd": Metric(
            value,
            {
                **base,
                "n": len(features),
                "split": name,
                "weights": "EMA",
                "rounding": "nearest uint8",
            },
        )
    }


def _fidelity(tokenizer: Tokenizer, val: Split) -> dict[str, Metric]:
    """PSNR and SSIM of validation reconstructions, means over images."""
    chosen = val.part(evenly_spaced(len(val), REBUILT))
    noise: list[torch.Tensor] = []
    likeness: list[torch.Tensor] = []
    for part in batches(len(chosen)):
        original = chosen[part]
        a, b = (
            torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
            for x in (decode_tokens(tokenizer, encode_images(tokenizer, original)), original)
        )
        noise.append(
            peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3)).clamp(
                max=100
            )
        )
        likeness.append(_ssim(a, b))
    protocol = {
        "split": "val",
        "n": len(chosen),
        "crop": "centre",
        "rounding": "nearest uint8",
        "weights": "EMA",
    }
    return {
        "psnr": Metric(float(torch.cat(noise).mean()), {**protocol, "mean": "over images, dB"}),
        "ssim": Metric(
            float(torch.cat(likeness).mean()), {**protocol, "window": "gaussian 11, sigma 1.5"}
        ),
    }


def _inception(
    config: Config, tokenizer: Tokenizer, val: Split, samples: Split, drawn: dict[str, Any]
) -> dict[str, Metric]:
    extractor = build_inception(config.evaluate.inception).to(next(tokenizer.parameters()).device)
    training = load_training(paths.REFERENCE)
    reference = (
        read_reference(config.evaluate.reference)
        if config.evaluate.reference.path
        else training.reference
    )
    chosen, named = (
        val.part(evenly_spaced(len(val), REBUILT)),
        {"split": "val", "crop": "centre", "weights": "EMA"},
    )
    return {
        **of_samples(extractor, samples, reference, training, drawn, config.run.seed),
        **of_reconstructions(extractor, tokenizer, chosen, named),
    }


def _ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    value = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(value, torch.Tensor)
    return value


def _likelihood(
    config: Config, tokenizer: Tokenizer, generator: Generator, val: Split
) -> dict[str, Metric]:
    nats = next_token_nats(generator, encode_images(tokenizer, val), conditions_for(config, val))
    protocol = {
        "split": "val",
        "n": len(val),
        "codes": generator.codes,
        "tokens": generator.tokens,
        "weights": "EMA",
    }
    protocol |= {"given": config.data.condition}
    return {
        "ntp_nats": Metric(nats, protocol),
        "ntp_bits": Metric(
            bits_per_image(nats, generator.tokens), {**protocol, "unit": "bits an image"}
        ),
    }
