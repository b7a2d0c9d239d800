"""Test that samples which copy training images are flagged as memorised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gear.data.shards import Split, encode_png, image_row, read_split, write_samples, write_shards
from gear.evaluation.memorisation import (
    NearestTraining,
    nearest,
    nearest_table,
    share_of_copies,
)
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer
from tests.support.images import blotches
from tests.support.settings import tiny_settings

TRAIN = 120
VAL = 100
COARSE = {"codes": 16, "code_dim": 4}  # so that reconstructions differ from the originals


def as_split(images: np.ndarray, folder: Path) -> Split:
    size = images.shape[1:3]
    rows = (
        image_row(str(number), encode_png(image), size, 0, "")
        for number, image in enumerate(images)
    )
    write_shards(rows, folder)
    return read_split(folder)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tiny_settings(tokenizer=COARSE).tokenizer).eval()


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("splits")
    size = tiny_settings().data.size
    images = blotches(0, count=TRAIN + VAL, size=size)
    return as_split(images[:TRAIN], folder / "train"), as_split(images[TRAIN:], folder / "val")


def measured(
    tokenizer: Tokenizer,
    splits: tuple[Split, Split],
    tokens: np.ndarray,
    folder: Path,
    *,
    flip: bool = True,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the shares of copies among samples with these tokens, and the nearest images."""
    images = decode_tokens(tokenizer, tokens)
    write_samples(images, np.zeros(len(images), np.int64), [""] * len(images), folder)
    metrics, nearest = share_of_copies(
        tokenizer, *splits, read_split(folder), tokens, flip=flip, protocol={}
    )
    table = nearest_table(nearest, 10, samples=len(tokens))
    return {name: metric.value for name, metric in metrics.items()}, table


def test_the_nearest_of_many_samples_have_their_own_numbers() -> None:
    """Of 7 samples, those of numbers 0, 3 and 6 were looked at."""
    nearest = NearestTraining(np.array([5.0, 1.0, 3.0]), np.array([8, 9, 7]), np.zeros(3))
    table = nearest_table(nearest, 2, samples=7)
    assert [(row["sample"], row["training_row"]) for row in table] == [(3, 9), (6, 7)]


def test_a_generator_that_emits_training_tokens_is_flagged(
    tokenizer: Tokenizer, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    train, _ = splits
    tokens = encode_images(tokenizer, train[:])[::-1].copy()
    shares, table = measured(tokenizer, splits, tokens, tmp_path / "samples")
    assert shares["memorised"] >= 0.95
    assert shares["memorised_tokens"] >= 0.95
    assert table[0]["training_row"] == TRAIN - 1 - table[0]["sample"]


def test_copies_of_mirrored_training_images_are_flagged_if_training_mirrors(
    tokenizer: Tokenizer, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    train, _ = splits
    tokens = encode_images(tokenizer, np.ascontiguousarray(train[:][:, :, ::-1]))
    flagged, _ = measured(tokenizer, splits, tokens, tmp_path / "flip")
    missed, _ = measured(tokenizer, splits, tokens, tmp_path / "no-flip", flip=False)
    assert flagged["memorised"] >= 0.95
    assert missed["memorised"] <= 0.1


def test_a_copy_with_a_few_tokens_changed_is_flagged(
    tokenizer: Tokenizer, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    train, _ = splits
    tokens = encode_images(tokenizer, train[:]).copy()
    random = np.random.default_rng(0)
    changed = random.random(tokens.shape) < 0.1
    tokens[changed] = random.integers(0, COARSE["codes"], changed.sum())
    shares, _ = measured(tokenizer, splits, tokens, tmp_path / "samples")
    assert shares["memorised_tokens"] >= 0.95


def test_reconstructions_of_validation_images_are_flagged_as_often_as_the_floor_says(
    tokenizer: Tokenizer, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    _, val = splits
    shares, _ = measured(tokenizer, splits, encode_images(tokenizer, val[:]), tmp_path / "samples")
    assert shares["memorised"] == shares["memorised_floor"] == pytest.approx(0.01, abs=0.005)
    assert shares["memorised_tokens"] <= 0.01


def test_exact_copies_count_where_validation_images_are_copies_too(
    tokenizer: Tokenizer, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    """Test that 5 of 100 validation images, which are training images, do not hide copies."""
    train, val = splits
    held_out = as_split(np.concatenate([train[:5], val[5:]]), tmp_path / "val")
    tokens = encode_images(tokenizer, train[:])
    shares, table = measured(tokenizer, (train, held_out), tokens, tmp_path / "samples")
    assert shares["memorised"] == shares["memorised_tokens"] == 1
    assert shares["memorised_floor"] == shares["memorised_tokens_floor"] == 0.05
    assert {row["distance"] for row in table} == {0.0}


def test_equal_images_have_no_distance_among_many() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    images[:, :, :12] = 255  # a white background, as of emoji
    distance, position = nearest(images, images)
    assert distance.max() == 0
    assert position.tolist() == list(range(200))
