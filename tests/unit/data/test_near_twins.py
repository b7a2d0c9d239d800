"""Test the search for near-twins against a comparison of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gear.data import near_twins as module
from gear.data.near_twins import (
    MAX_RMSE,
    average_pool,
    near_twin_groups,
    near_twins,
    near_twins_between,
    thumbnail,
)
from tests.support.images import blotches


@pytest.fixture(params=[0.0, 1.0], ids=["by 8-pixel averages", "by bands first"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with both ways of comparing thumbnails."""
    monkeypatch.setattr(module, "MANY", request.param)


def pairs_by_brute_force(images: np.ndarray) -> set[tuple[int, int]]:
    small = average_pool(images, 32)
    pairs = set()
    for i in range(len(images)):
        for j in range(i + 1, len(images)):
            plain = ((small[i] - small[j]) ** 2).mean()
            mirrored = ((small[i] - small[j, :, ::-1]) ** 2).mean()
            if min(plain, mirrored) <= MAX_RMSE**2:
                pairs.add((i, j))
    return pairs


def variants(seed: int) -> np.ndarray:
    """Return blotchy images, each with a mirrored, a noisy, a brighter and a darker variant."""
    rng = np.random.default_rng(seed)
    images = blotches(seed, count=12, size=64)
    noisy = images + rng.normal(0, 15, images.shape)
    parts = [images, images[:, :, ::-1], noisy, images + 12.0, images - 20.0]
    return np.concatenate(parts).clip(0, 255).round().astype(np.uint8)


def test_search_finds_the_pairs_that_a_comparison_of_all_finds() -> None:
    images = variants(0)
    found = near_twins(thumbnail(images), lambda positions: images[positions])
    expected = pairs_by_brute_force(images)
    assert len(expected) >= len(images)
    assert {(int(a), int(b)) for a, b in found} == expected


def test_pairs_between_two_sets_are_those_with_one_in_each() -> None:
    images = variants(1)
    first = np.arange(0, len(images), 5)
    second = np.setdiff1d(np.arange(len(images)), first)
    found = near_twins_between(first, second, thumbnail(images), lambda p: images[p])
    crossing = {
        (a, b) if a in first else (b, a)
        for a, b in pairs_by_brute_force(images)
        if (a in first) != (b in first)
    }
    assert crossing
    assert {(int(a), int(b)) for a, b in found} == crossing


def test_no_images_have_no_pairs() -> None:
    nothing = np.zeros((0, 8, 8, 3), np.uint8)
    assert near_twins(nothing, lambda positions: nothing).shape == (0, 2)


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_what_all_pairs_and_the_groups_before_link(seed: int) -> None:
    images = variants(seed)
    rng = np.random.default_rng(seed)
    before = np.arange(len(images))
    # put some images that do not look the same into one group
    before[rng.choice(len(images), 6, replace=False)] = 0
    found = near_twin_groups(thumbnail(images), before, lambda positions: images[positions])
    links = [*pairs_by_brute_force(images)]
    links += [(0, int(n)) for n in np.flatnonzero(before == 0)]
    graph = coo_array((np.ones(len(links)), np.array(links).T), shape=(len(images),) * 2)
    _, expected = connected_components(graph, directed=False)
    assert found.tolist() == expected.tolist()
    assert 1 < found.max() + 1 < len(images)


def test_an_image_is_read_once_however_many_look_like_it() -> None:
    images = np.repeat(blotches(4, count=2, size=32), 60, axis=0).round().astype(np.uint8)
    images[:, 0, 0] = np.arange(len(images))[:, None]  # no two are equal
    read: list[int] = []

    def reading(positions: np.ndarray) -> np.ndarray:
        read.extend(positions.tolist())
        return images[positions]

    groups = near_twin_groups(thumbnail(images), np.arange(len(images)), reading)
    assert groups.tolist() == [0] * 60 + [1] * 60
    assert len(read) == len(set(read))
