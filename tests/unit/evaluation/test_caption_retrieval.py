"""Test the agreement of samples with their captions against naive loops."""

from __future__ import annotations

import numpy as np
import pytest

from gear.evaluation import caption_retrieval

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
