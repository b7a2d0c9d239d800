"""Stage evaluate: measure samples, each value with its protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gear import paths
from gear.core.device import pick_device
from gear.core.errors import InputError
from gear.core.files import read_json, read_object, write_json
from gear.core.ranks import Ranks, join_ranks
from gear.data.captions import seen_captions
from gear.data.shards import Split, Subset, load_manifest, read_split
from gear.encoders.efficientnet import build_encoder, pooled_features
from gear.encoders.inception import build_inception
from gear.evaluation.caption_retrieval import Gallery
from gear.evaluation.clip_score import clip_score
from gear.evaluation.efficientnet_reference import load_feature_reference
from gear.evaluation.inception_metrics import sample_metrics
from gear.evaluation.inception_statistics import choose_reference, load_training_statistics
from gear.evaluation.memorisation import nearest_table, share_of_copies
from gear.evaluation.metric_protocol import Absent, Metric, describe, require_records
from gear.evaluation.sample_quality import (
    Sampler,
    caption_floors,
    class_floors,
    guidance_sweep,
    sample_quality,
    sample_recall,
)
from gear.generator.conditions import sampling_set
from gear.generator.inference import load_generator
from gear.params import Config
from gear.tokenizer.inference import load_tokenizer

SHOWN = 24  # samples shown next to their nearest training images
# With usage and perplexity, the columns of `dvc exp show`. fid and inception_score need Inception,
# val_captions_seen is of runs on captions.
HEADLINE = (
    "fd",
    "coverage",
    "memorised",
    "rfd",
    "psnr",
    "ntp_bits",
    "fid",
    "inception_score",
    "val_captions_seen",
)


def run(config: Config) -> None:
    """Write `reports/metrics.json` (headline) and `reports/protocols.json` (all records).

    Both include the metrics of the stage reconstruction. `reports/nearest-training.json` lists the
    samples that are nearest to a training image.
    """
    rebuilt = {}
    if paths.RECONSTRUCTION.exists():
        rebuilt = read_json(paths.RECONSTRUCTION)
        require_records(rebuilt, str(paths.RECONSTRUCTION))
    else:  # DVC never runs this stage without it
        print(f"{paths.RECONSTRUCTION}: absent, its metrics are left out (`gear reconstruction`)")
    ranks, device = join_ranks(config.host), pick_device(config.host)
    train = read_split(paths.SHARDS / "train")
    val = read_split(paths.SHARDS / "val")
    samples = read_split(paths.SAMPLES)
    images = np.unique(train.first_rows())
    reference = load_feature_reference(paths.REFERENCE, images)
    extracted = read_object(paths.REFERENCE / "protocol.json", reference_n=int)
    drawn = read_object(paths.SAMPLES / "protocol.json")
    protocol = {**extracted, **drawn}
    encoder = build_encoder().to(device)
    tokenizer = load_tokenizer(paths.GENERATOR / "tokenizer").to(device)
    generator = load_generator(paths.GENERATOR / "generator").to(device)
    batch = config.host.sample_batch
    sampler = Sampler(generator, tokenizer, encoder, reference, config.run.seed, batch, ranks)
    condition = config.data.condition
    k = config.evaluate.neighbours
    if k >= len(images):
        raise InputError(
            f"{paths.SHARDS / 'train'}: {len(images)} different images, and evaluate.neighbours "
            f"is {k}: an image needs that many others"
        )

    features = pooled_features(encoder, samples, reference.input_size, ranks)
    metrics: dict[str, Metric | Absent] = {}
    metrics |= sample_quality(features, reference, protocol, k)
    metrics |= sample_recall(features, reference, protocol, k)
    own = None
    if condition == "class":
        metrics |= class_floors(
            reference, train.labels, len(samples), k, config.run.seed, extracted
        )
    else:
        own = _own_images(val, len(samples))
        metrics |= caption_floors(
            reference, pooled_features(encoder, own, reference.input_size, ranks), k, extracted
        )
    tokens = np.load(paths.SAMPLES / "tokens.npy")
    copies, nearest = share_of_copies(
        tokenizer,
        train,
        val,
        samples,
        tokens,
        flip=config.data.flip,
        protocol=drawn,
        ranks=ranks,
    )
    metrics |= copies
    gallery = None
    if condition == "caption":
        classes = len(load_manifest(paths.SHARDS)["classes"])
        gallery = Gallery(train, val, encoder, reference, classes, ranks)
        wanted = sampling_set(len(features), condition, paths.SHARDS, paths.FEATURES)
        metrics["val_captions_seen"] = gallery.seen_count()
        metrics |= gallery.agreement(features, wanted, protocol)
        seen = seen_captions(samples.captions, train.captions)
        metrics |= clip_score(config.evaluate.clip, samples, device, drawn, seen, ranks)
    wanted = sampling_set(config.evaluate.guidance_n, condition, paths.SHARDS, paths.FEATURES)
    metrics |= guidance_sweep(sampler, wanted, config.sample, config.evaluate, protocol, gallery)
    if config.evaluate.inception.path:
        metrics |= _inception_metrics(config, samples, own, drawn, device, ranks)
    if not ranks.is_rank_zero:
        return

    write_json(paths.NEAREST_TRAINING, nearest_table(nearest, SHOWN, samples=len(samples)))
    records = rebuilt | {name: metric.record() for name, metric in metrics.items()}
    write_json(
        paths.METRICS,
        {
            name: records[name]["value"]
            for name in HEADLINE
            if name in records and records[name]["value"] is not None
        },
    )
    write_json(paths.REPORTS / "protocols.json", records)
    for name, record in records.items():
        print(f"{name:18s} {describe(record)}")


def _own_images(val: Split, count: int) -> Subset:
    """Return the distinct validation images of the captions of `count` samples."""
    rows = sampling_set(count, "caption", paths.SHARDS, paths.FEATURES).rows
    assert rows is not None
    return val.part(np.unique(val.first_rows()[rows]))


def _inception_metrics(
    config: Config,
    samples: Split,
    own: Subset | None,
    drawn: dict[str, Any],
    device: torch.device,
    ranks: Ranks,
) -> dict[str, Metric | Absent]:
    """Return the metrics of Inception-v3 features; `own` are the images of samples' captions."""
    inception = build_inception(config.evaluate.inception).to(device)
    training = load_training_statistics(paths.INCEPTION)
    reference = choose_reference(config.evaluate.reference, training)
    return sample_metrics(
        inception, samples, reference, training, drawn, config.run.seed, own, ranks
    )
