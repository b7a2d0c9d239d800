"""Test that batches have balanced classes and depend on seed and step alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gear.data.shards import encode_png, image_row, read_split, write_samples, write_shards
from gear.generator.conditions import conditions_for
from gear.training.batches import BatchLoader, ClassBalancedSampler, batch_sampler
from gear.training.distributed import DistributedContext
from tests.support.captions import write_caption_states
from tests.support.images import blotches


def test_the_plan_is_balanced_and_a_function_of_the_step() -> None:
    labels = np.array([0] * 5 + [1] * 50)
    plan = ClassBalancedSampler(labels, 10, 3, True)
    batches = [plan.batch(step) for step in range(20)]
    assert all(np.bincount(labels[indices]).tolist() == [5, 5] for indices, _ in batches)
    later = ClassBalancedSampler(labels, 10, 3, True).batch(17)
    assert np.array_equal(later[0], batches[17][0])
    assert np.array_equal(later[1], batches[17][1])
    ones = np.concatenate([indices[labels[indices] == 1] for indices, _ in batches[:10]])
    assert sorted(ones) == list(range(5, 55)), "each image once before any comes twice"


def test_a_batch_of_many_classes_is_no_run_of_neighbours() -> None:
    labels = np.repeat(np.arange(1000), 2)
    plan = ClassBalancedSampler(labels, 250, 3, False)
    turn = [labels[plan.batch(step)[0]] for step in range(4)]
    assert sorted(np.concatenate(turn)) == list(range(1000)), "every class once a turn"
    assert all(np.ptp(batch) > 900 for batch in turn)


def test_natural_batches_hold_each_image_once_an_epoch(tmp_path: Path) -> None:
    images = blotches(0, count=24, size=16)
    rows = (
        image_row(str(n), encode_png(image), (16, 16), int(n >= 20), "")
        for n, image in enumerate(images)
    )
    write_shards(rows, tmp_path)
    split = read_split(tmp_path)
    options = {"batch": 8, "seed": 0, "mirror": np.zeros(24, bool)}
    natural = batch_sampler(split, balance="natural", **options)
    balanced = batch_sampler(split, balance="classes", **options)
    epoch = np.concatenate([natural.batch(step)[0] for step in range(3)])
    assert sorted(epoch) == list(range(24))
    assert np.bincount(split.labels[balanced.batch(0)[0]]).tolist() == [4, 4]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shares_of_captions_are_rows_of_the_whole_batch(tmp_path: Path, ranks: int) -> None:
    captions = [" ".join([str(n), *["word"] * (n % 9)]) for n in range(12)]
    write_samples(blotches(0, count=12, size=16), np.zeros(12, np.int64), captions, tmp_path)
    write_caption_states(captions, tmp_path / "text", width=4)
    split = read_split(tmp_path)
    sampler = batch_sampler(split, balance="natural", batch=6, seed=0, mirror=np.zeros(12, bool))
    conditions = conditions_for(split, "caption", tmp_path)
    for step in range(3):
        expected = conditions(sampler.batch(step)[0])
        for rank in range(ranks):
            context = DistributedContext(rank, ranks)
            loader = BatchLoader(split, sampler, context, condition=conditions)
            share = loader(step).condition
            assert torch.equal(share.states_BTC, expected.states_BTC[rank::ranks])
            assert torch.equal(share.real_BT, expected.real_BT[rank::ranks])
