"""FD, coverage and recall of samples against the training images, and a guidance sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gear.data.row_selection import batches
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation import coverage
from gear.evaluation.caption_retrieval import Gallery
from gear.evaluation.config import EvaluateConfig
from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.metric_protocol import Metric
from gear.generator.conditions import SamplingSet
from gear.generator.config import SampleConfig
from gear.generator.sampling import draw, sample_seeds
from gear.generator.transformer import Generator
from gear.tokenizer.inference import decode_tokens
from gear.tokenizer.model import Tokenizer


def sample_quality(
    features_NC: np.ndarray,
    reference: FeatureReference,
    protocol: dict[str, Any],
    neighbours: int,
) -> dict[str, Metric]:
    """Return `fd` and `coverage` of samples.

    features_NC: pooled features of the samples, by the reference's encoder.
    protocol: how the features were computed and the samples drawn.
    neighbours: k of coverage.
    """
    real = reference.neighbour_rows
    near = {**protocol, "k": neighbours, "reference_rows": len(real)}
    return {
        "fd": Metric(reference.fd(features_NC), protocol),
        "coverage": Metric(coverage.coverage(real, features_NC, neighbours), near),
    }


def sample_recall(
    features_NC: np.ndarray,
    reference: FeatureReference,
    protocol: dict[str, Any],
    neighbours: int,
) -> dict[str, Metric]:
    """Return `recall` of samples; arguments as in `sample_quality`."""
    real = reference.neighbour_rows
    near = {**protocol, "k": neighbours, "reference_rows": len(real)}
    return {"recall": Metric(coverage.recall(real, features_NC, neighbours), near)}


def fd_floor(reference: FeatureReference, protocol: dict[str, Any]) -> dict[str, Metric]:
    """Return `fd_floor`: FD between two halves of the training images."""
    half = {**protocol, "n": len(reference.features) // 2, "against": "the other half"}
    return {"fd_floor": Metric(reference.floor, half)}


def decoded_features(
    encoder: Encoder, tokenizer: Tokenizer, tokens_NL: np.ndarray, input_size: int
) -> np.ndarray:
    """Return pooled features of decoded tokens, (N, C); one batch of images is held at a time."""
    return np.concatenate(
        [
            pooled_features(encoder, decode_tokens(tokenizer, tokens_NL[part]), input_size)
            for part in batches(len(tokens_NL))
        ]
    )


@dataclass(frozen=True)
class Sampler:
    """A generator with what turns its tokens into features: tokenizer, encoder and input size.

    seed: the run's seed. batch: images sampled at a time.
    """

    generator: Generator
    tokenizer: Tokenizer
    encoder: Encoder
    reference: FeatureReference
    seed: int
    batch: int

    def features(self, wanted: SamplingSet, settings: SampleConfig) -> np.ndarray:
        """Return pooled features of fresh samples, (len(wanted), C)."""
        seeds = sample_seeds(self.seed, len(wanted))
        return self.decoded(draw(self.generator, wanted.conditions, seeds, settings, self.batch))

    def decoded(self, tokens_NL: np.ndarray) -> np.ndarray:
        """Return pooled features of decoded tokens, (N, C)."""
        return decoded_features(self.encoder, self.tokenizer, tokens_NL, self.reference.input_size)


def untrained_fd(sampler: Sampler, count: int, protocol: dict[str, Any]) -> dict[str, Metric]:
    """Return `fd_untrained`: FD of `count` images of uniformly drawn codes.

    An untrained generator draws exactly these, since its output head starts at zero.
    """
    codes = sampler.tokenizer.config.codes
    random = np.random.default_rng(sampler.seed)
    tokens = random.integers(0, codes, (count, sampler.generator.tokens))
    uniform = {**protocol, "seeds": sampler.seed, "weights": "uniform codes"}
    return {"fd_untrained": Metric(sampler.reference.fd(sampler.decoded(tokens)), uniform)}


def guidance_sweep(
    sampler: Sampler,
    wanted: SamplingSet,
    settings: SampleConfig,
    config: EvaluateConfig,
    protocol: dict[str, Any],
    gallery: Gallery | None,
) -> dict[str, Metric]:
    """Return metrics of fresh samples at each of `config.guidances`, named `<metric>@<scale>`.

    They are FD, coverage and, if a gallery is given, agreement with captions.
    """
    metrics: dict[str, Metric] = {}
    for scale in config.guidances:
        print(f"guidance {scale:g}")
        features = sampler.features(wanted, settings.model_copy(update={"guidance": scale}))
        drawn = {**protocol, "n": len(wanted), "guidance": scale}
        at_scale = sample_quality(features, sampler.reference, drawn, config.neighbours)
        if gallery is not None:
            at_scale |= gallery.agreement(features, wanted, drawn)
        metrics |= {f"{name}@{scale:g}": metric for name, metric in at_scale.items()}
    return metrics
