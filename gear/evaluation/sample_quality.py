"""FD, coverage and recall of samples against the training images, and a guidance sweep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import batches
from gear.encoders.efficientnet import Encoder, pooled_features
from gear.evaluation import coverage
from gear.evaluation.caption_retrieval import Gallery
from gear.evaluation.config import EvaluateConfig
from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.floors import SPLITS, Floor, fd_floor, neighbour_floor, too_few
from gear.evaluation.metric_protocol import DISTINCT, Absent, Metric
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

    Args:
        features_NC: Pooled features of the samples, by the reference's encoder.
        reference: Features of the training images.
        protocol: How the features were computed and the samples drawn.
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


def class_floors(
    reference: FeatureReference,
    labels: np.ndarray,
    count: int,
    neighbours: int,
    seed: int,
    protocol: dict[str, Any],
) -> dict[str, Metric | Absent]:
    """Return `fd_floor`, `coverage_floor` and `recall_floor` of samples balanced over classes.

    Args:
        reference: Features of the training images.
        labels: Classes of all training images, (M,) int64.
        count: Number of samples.
        neighbours: k of coverage and recall.
        seed: Of the random splits of the training images.
        protocol: How the features were computed.
    """
    images = reference.distinct
    features_MC, classes = reference.features, labels
    if len(images) < len(labels):  # else the whole array would be copied
        features_MC, classes = features_MC[images], labels[images]
    floors: dict[str, Floor | Absent] = {
        "fd": fd_floor(features_MC, classes, samples=count, reference=len(images), seed=seed)
    }
    for name, metric in (("coverage", coverage.coverage), ("recall", coverage.recall)):
        floors[name] = neighbour_floor(
            partial(metric, k=neighbours),
            reference.neighbour_rows,
            labels[reference.neighbour_positions],
            samples=count,
            least=neighbours + 1,
            seed=seed,
        )
    real = {**protocol, "n": count, "images": "training images, splits of them", "splits": SPLITS}
    if len(images) < len(labels):
        real[DISTINCT] = len(images)
    return {
        f"{name}_floor": floor
        if isinstance(floor, Absent)
        else Metric(floor.value, {**real, "deviation": floor.deviation, "seed": seed})
        for name, floor in floors.items()
    }


def caption_floors(
    reference: FeatureReference,
    own_NC: np.ndarray,
    neighbours: int,
    protocol: dict[str, Any],
) -> dict[str, Metric | Absent]:
    """Return `fd_floor`, `coverage_floor` and `recall_floor` of samples of captions.

    They are the scores of the captions' own images. A repeated image would have itself as its
    nearest neighbours, and the recall would be 0.

    Args:
        reference: Features of the training images.
        own_NC: Features of the distinct validation images of the samples' captions.
        neighbours: k of coverage and recall.
        protocol: How the features were computed.
    """
    real = {
        **protocol,
        "n": len(own_NC),
        "images": "the validation images of the captions",
        DISTINCT: len(own_NC),
    }
    images, real_MC = len(own_NC), reference.neighbour_rows
    near = {**real, "k": neighbours, "reference_rows": len(real_MC)}
    fd = Metric(reference.fd(own_NC), real) if images >= 2 else too_few(images, 2)
    covered = Metric(coverage.coverage(real_MC, own_NC, neighbours), near)
    recalled: Metric | Absent = too_few(images, neighbours + 1)
    if images > neighbours:
        recalled = Metric(coverage.recall(real_MC, own_NC, neighbours), near)
    return {"fd_floor": fd, "coverage_floor": covered, "recall_floor": recalled}


def decoded_features(
    encoder: Encoder,
    tokenizer: Tokenizer,
    tokens_NL: np.ndarray,
    input_size: int,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Return pooled features of decoded tokens, (N, C), without keeping all images in memory."""

    def extract(part: slice) -> np.ndarray:
        return pooled_features(encoder, decode_tokens(tokenizer, tokens_NL[part]), input_size)

    return np.concatenate(list(ranks.map(extract, batches(len(tokens_NL)))))


@dataclass(frozen=True)
class Sampler:
    """A generator with tokenizer and encoder, which turn its tokens into features.

    reference: Its input size is the encoder's.
    seed: The run's seed.
    batch: Images sampled at a time.
    ranks: Share the work.
    """

    generator: Generator
    tokenizer: Tokenizer
    encoder: Encoder
    reference: FeatureReference
    seed: int
    batch: int
    ranks: Ranks = ALONE

    def features(self, wanted: SamplingSet, settings: SampleConfig) -> np.ndarray:
        """Return pooled features of fresh samples, (len(wanted), C)."""
        seeds = sample_seeds(self.seed, len(wanted))
        return self.decoded(
            draw(self.generator, wanted.conditions, seeds, settings, self.batch, self.ranks)
        )

    def decoded(self, tokens_NL: np.ndarray) -> np.ndarray:
        """Return pooled features of decoded tokens, (N, C)."""
        size = self.reference.input_size
        return decoded_features(self.encoder, self.tokenizer, tokens_NL, size, self.ranks)


def untrained_fd(sampler: Sampler, count: int, protocol: dict[str, Any]) -> dict[str, Metric]:
    """Return `fd_untrained`, the FD of `count` images of uniformly drawn codes.

    This is the distribution of an untrained generator, since its output head starts at zero.

    protocol: How features are computed.
    """
    codes = sampler.tokenizer.config.codes
    random = np.random.default_rng(sampler.seed)
    tokens = random.integers(0, codes, (count, sampler.generator.tokens))
    uniform = {
        **protocol,
        "n": count,
        "seeds": sampler.seed,
        "weights": "uniform codes",
        "rounding": "nearest uint8",
    }
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
        if sampler.ranks.is_rank_zero:
            print(f"guidance {scale:g}")
        features = sampler.features(wanted, settings.model_copy(update={"guidance": scale}))
        drawn = {**protocol, "n": len(wanted), "guidance": scale}
        at_scale = sample_quality(features, sampler.reference, drawn, config.neighbours)
        if gallery is not None:
            agreement = gallery.agreement(features, wanted, drawn)
            at_scale |= {n: m for n, m in agreement.items() if isinstance(m, Metric)}
        metrics |= {f"{name}@{scale:g}": metric for name, metric in at_scale.items()}
    return metrics
