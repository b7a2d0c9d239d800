"""FD and coverage of samples, at one guidance scale or several."""

from __future__ import annotations

from typing import Any

import numpy as np

from gear.data.rows import batches, evenly_spaced
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation import coverage, frechet
from gear.evaluation.caption_retrieval import ROWS, Gallery
from gear.evaluation.metric import Metric
from gear.generator.conditions import sampling_set
from gear.generator.sampling import SEED_STRIDE, draw
from gear.generator.transformer import Generator
from gear.params import Config
from gear.tokenizer.inference import decode_tokens
from gear.tokenizer.model import Tokenizer


def decoded_features(
    encoder: Encoder, tokenizer: Tokenizer, tokens_NL: np.ndarray, input_size: int
) -> np.ndarray:
    """Pooled features of decoded tokens, (N, 112); no more than a batch of images is held."""
    return np.concatenate(
        [
            pooled_features(encoder, decode_tokens(tokenizer, tokens_NL[p]), input_size)
            for p in batches(len(tokens_NL))
        ]
    )


def guidance_sweep(
    config: Config,
    tokenizer: Tokenizer,
    generator: Generator,
    encoder: Encoder,
    reference: Any,
    gallery: Gallery | None,
    base: dict[str, Any],
) -> dict[str, Metric]:
    """FD, coverage and, with captions, agreement of fresh samples at each of `evaluate.guidances`, named `<metric>@<scale>`."""
    metrics: dict[str, Metric] = {}
    count, k = config.evaluate.guidance_n, config.evaluate.neighbours
    real = reference["features"][evenly_spaced(len(reference["features"]), ROWS)]
    seeds = config.run.seed * SEED_STRIDE + np.arange(count)
    for scale in config.evaluate.guidances:
        wanted, settings = (
            sampling_set(config, count),
            config.sample.model_copy(update={"guidance": scale}),
        )
        print(f"guidance {scale:g}")
        tokens = draw(generator, wanted.given, seeds, settings, config.host.sample_batch)
        features = decoded_features(encoder, tokenizer, tokens, config.evaluate.input_size)
        protocol = {**base, "n": count, "guidance": scale}
        fd = frechet.frechet_distance(
            *frechet.statistics(features), reference["mean"], reference["cov"]
        )
        found = {
            "fd": Metric(fd, protocol),
            "coverage": Metric(
                coverage.coverage(real, features, k),
                {**protocol, "k": k, "reference_rows": len(real)},
            ),
        }
        if gallery is not None:
            found |= gallery.agree(features, wanted, protocol)
        metrics |= {f"{name}@{scale:g}": metric for name, metric in found.items()}
    return metrics
