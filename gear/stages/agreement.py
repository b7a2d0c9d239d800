"""What evaluate measures of captions and guidance: agreement of samples with their captions, and the sweep over guidance scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from gear import paths
from gear.alignment.efficientnet import Encoder
from gear.config import Config
from gear.data.pixels import evenly
from gear.data.shards import load_manifest, read_split
from gear.evaluation import agreement, frechet, manifold
from gear.evaluation.models import decoded_features, pooled_features
from gear.evaluation.protocol import Metric
from gear.generator.sampling import SEED_STRIDE, draw
from gear.generator.transformer import Generator
from gear.stages.conditions import Request, request
from gear.tokenizer.model import Tokenizer

WITHIN = 0.1  # of the real validation images: where a caption's own image must rank
ROWS = 5000  # samples and real images, at most, that retrieval compares


class Gallery:
    """Real images that samples are compared with: training images with classes, and the validation captions' own images."""

    def __init__(self, config: Config, encoder: Encoder, reference: Any) -> None:
        train, val = read_split(paths.SHARDS / "train"), read_split(paths.SHARDS / "val")
        chosen = evenly(len(train), ROWS)
        self.mean, self.classes = reference["mean"], len(load_manifest(paths.SHARDS)["classes"])
        self.train, self.labels = agreement.unit(reference["features"][chosen], self.mean), train.labels[chosen]
        self.val_rows = evenly(len(val), ROWS)
        features = pooled_features(encoder, val.part(self.val_rows), config.evaluate.input_size)
        self.val = agreement.unit(features, self.mean)

    def agree(self, features: np.ndarray, wanted: Request, base: dict[str, Any]) -> dict[str, Metric]:
        """Agreement of samples, by their features, with the captions they were drawn for."""
        assert wanted.rows is not None
        place = np.full(int(self.val_rows.max()) + 1, -1)
        place[self.val_rows] = np.arange(len(self.val_rows))
        chosen = np.array([i for i in evenly(len(features), ROWS) if wanted.rows[i] < len(place) and place[wanted.rows[i]] >= 0])
        samples, own = agreement.unit(features[chosen], self.mean), place[wanted.rows[chosen]]
        rule = {"by": "cosine of pooled features, centred on the training mean", "samples": len(chosen), "floor": "captions shuffled"}
        rule |= {"interval": "95 %, bootstrap over captions"}
        found = {
            f"retrieval_own_{WITHIN:.0%}": (
                agreement.own_agreement(samples, self.val, own, WITHIN),
                {"hit": f"the caption's own image is among the nearest {WITHIN:.0%} of validation images", "gallery": len(self.val)},
            )
        }
        if self.classes > 1:
            nearest = agreement.nearest_class(samples, self.train, self.labels)
            found["retrieval_category"] = (
                agreement.category_agreement(nearest, wanted.labels[chosen], own),
                {"hit": "the nearest training image is of the caption's category", "gallery": len(self.train)},
            )
        metrics: dict[str, Metric] = {}
        for name, (value, hit) in found.items():
            protocol = {**base, **rule, **hit}
            parts = {"": value.score, "_low": value.low, "_high": value.high, "_floor": value.floor}
            metrics |= {name + part: Metric(number, protocol) for part, number in parts.items()}
        return metrics


def sample_agreement(config: Config, gallery: Gallery, features: np.ndarray, base: dict[str, Any]) -> dict[str, Metric]:
    """Agreement of the sample stage's images; nothing where the condition is the class."""
    wanted = request(config, len(features))
    return {} if wanted.rows is None else gallery.agree(features, wanted, base)


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
    real = reference["features"][evenly(len(reference["features"]), ROWS)]
    seeds = config.run.seed * SEED_STRIDE + np.arange(count)
    for scale in config.evaluate.guidances:
        wanted, settings = request(config, count), config.sample.model_copy(update={"guidance": scale})
        print(f"guidance {scale:g}")
        tokens = draw(generator, wanted.given, seeds, settings)
        features = decoded_features(encoder, tokenizer, tokens, config.evaluate.input_size)
        protocol = {**base, "n": count, "guidance": scale}
        fd = frechet.frechet_distance(*frechet.statistics(features), reference["mean"], reference["cov"])
        found = {
            "fd": Metric(fd, protocol),
            "coverage": Metric(manifold.coverage(real, features, k), {**protocol, "k": k, "reference_rows": len(real)}),
        }
        if gallery is not None:
            found |= gallery.agree(features, wanted, protocol)
        metrics |= {f"{name}@{scale:g}": metric for name, metric in found.items()}
    return metrics
