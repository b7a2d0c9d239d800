"""Test the agreement of samples with their captions against naive loops, and its gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gear.data.shards import Split, encode_png, image_row, read_split, write_shards
from gear.encoders.efficientnet import build_encoder, pooled_features
from gear.evaluation import caption_retrieval
from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.frechet import Gaussian
from gear.generator.conditions import SamplingSet
from tests.support.images import blotches

RANDOM = np.random.default_rng(0)


REAL = caption_retrieval.unit(RANDOM.standard_normal((30, 8)), np.zeros(8))


LABELS = np.arange(30) % 3


def test_the_nearest_class_is_that_of_the_largest_cosine() -> None:
    samples = caption_retrieval.unit(RANDOM.standard_normal((20, 8)), np.zeros(8))
    naive = [LABELS[max(range(30), key=lambda m, s=s: float(s @ REAL[m]))] for s in samples]
    assert caption_retrieval.nearest_class(samples, REAL, LABELS).tolist() == naive


def test_own_images_rank_as_a_loop_says() -> None:
    own = RANDOM.integers(0, 30, 50)
    samples = caption_retrieval.unit(REAL[own] + 0.8 * RANDOM.standard_normal((50, 8)), np.zeros(8))
    naive = [
        sum(float(s @ r) > float(s @ REAL[o]) for r in REAL) < 3
        for s, o in zip(samples, own, strict=True)
    ]
    found = caption_retrieval.own_agreement(samples, REAL, own, 0.1)
    assert found.score == pytest.approx(np.mean(naive))
    assert found.low < found.score < found.high
    assert found.floor == pytest.approx(0.1, abs=0.03), "a shuffled caption's image is anywhere"


def test_samples_that_follow_their_captions_are_told_from_the_floor_and_others_are_not() -> None:
    captions = np.arange(200) % 40
    asked = captions % 4
    followed = np.where(RANDOM.random(200) < 0.7, asked, RANDOM.integers(0, 4, 200))
    found = caption_retrieval.category_agreement(followed, asked, captions)
    assert found.low > found.floor
    assert found.floor == pytest.approx(0.25, abs=0.04)
    blind = caption_retrieval.category_agreement(RANDOM.integers(0, 4, 200), asked, captions)
    assert blind.low < blind.floor < blind.high


def test_the_interval_treats_samples_of_one_caption_as_one() -> None:
    """Test that ten copies of each caption's outcome do not narrow the interval."""
    hits = (RANDOM.random(40) < 0.5).astype(float)
    once = caption_retrieval.agreement_of_hits(hits, np.arange(40), np.zeros(1))
    often = caption_retrieval.agreement_of_hits(
        np.tile(hits, 10), np.tile(np.arange(40), 10), np.zeros(1)
    )
    assert (once.low, once.high) == pytest.approx((often.low, often.high))
    expected = 1.96 * hits.std() / np.sqrt(40)
    assert (once.high - once.low) / 2 == pytest.approx(expected, rel=0.15)


class Prepared:
    """Shards of images with captions, their features, and samples that are the images themselves.

    images: the image of each validation row. seen: rows whose caption is a training caption.
    """

    def __init__(self, folder: Path, images: list[int], seen: tuple[int, ...] = ()) -> None:
        pixels = blotches(0, count=12 + max(images) + 1, size=16)
        train = [(pixels[n], f"training caption {n}") for n in range(12)]
        val = [
            (
                pixels[12 + image],
                f"training caption {row % 12}" if row in seen else f"held out {row}",
            )
            for row, image in enumerate(images)
        ]
        self.splits = [
            self._split(folder / name, rows) for name, rows in (("train", train), ("val", val))
        ]
        encoder = build_encoder()
        features = pooled_features(encoder, self.splits[0], 32)
        reference = FeatureReference(Gaussian.fit(features), features, 32, np.arange(12))
        self.gallery = caption_retrieval.Gallery(*self.splits, encoder, reference, 2)
        self.of_val = pooled_features(encoder, self.splits[1], 32)

    @staticmethod
    def _split(folder: Path, rows: list[tuple[np.ndarray, str]]) -> Split:
        write_shards(
            (
                image_row(str(number), encode_png(image), (16, 16), number % 2, caption)
                for number, (image, caption) in enumerate(rows)
            ),
            folder,
        )
        return read_split(folder)

    def agreement(self, rows: list[int]) -> dict[str, Any]:
        """Return the agreement of samples of these validation rows."""
        wanted = np.array(rows)
        labels = self.splits[1].labels[wanted]
        captions = [self.splits[1].captions[row] for row in rows]
        chosen = SamplingSet(wanted, labels, captions, lambda i: torch.from_numpy(labels[i]), "")
        metrics = self.gallery.agreement(self.of_val[wanted], chosen, {})
        return {name: metric.record() for name, metric in metrics.items()}


OWN_10 = "retrieval_own_10%"


def test_own_images_are_in_the_gallery_however_large_the_split_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caption_retrieval, "ROWS", 12)
    found = Prepared(tmp_path, list(range(40))).agreement([1, 2, 3, 17, 18, 33])[OWN_10]
    assert found["protocol"]["samples"] == 6, "a sample was left out"
    assert found["value"] == 1, "a sample that equals its caption's image is nearest to it"
    assert found["protocol"]["gallery"] == 12
    assert found["protocol"]["chance"] == pytest.approx(2 / 12)  # places 0 and 1 are under 10 %


def test_an_image_with_several_captions_is_in_the_gallery_once(tmp_path: Path) -> None:
    images = [n // 4 for n in range(80)]
    found = Prepared(tmp_path, images).agreement(list(range(80)))[OWN_10]
    assert found["protocol"]["gallery"] == 20
    assert found["protocol"]["chance"] == pytest.approx(0.1)
    assert found["value"] == 1


def test_captions_of_the_training_split_are_counted_and_measured_apart(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path, list(range(10)), seen=(2, 3, 7))
    count = prepared.gallery.seen_count()
    assert (count.value, count.protocol["n"]) == (3, 10)
    found = prepared.agreement([*range(10), *range(10)])
    assert found[OWN_10]["protocol"]["samples"] == 14
    assert found[f"{OWN_10}_seen"]["protocol"]["samples"] == 6
    assert found["retrieval_category_seen_floor"]["protocol"]["captions"].startswith("in the")
    alone = prepared.agreement([0, 1, 4])
    assert not any("_seen" in name for name in alone)


def test_no_held_out_caption_leaves_agreement_absent(tmp_path: Path) -> None:
    found = Prepared(tmp_path, list(range(4)), seen=(0, 1, 2, 3)).agreement([0, 1, 2, 3])
    assert found[OWN_10]["value"] is None
    assert found["retrieval_category"]["protocol"]["absent"].endswith("there are none")
    assert found[f"{OWN_10}_seen"]["value"] is not None
