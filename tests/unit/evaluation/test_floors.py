"""Test that a perfect generator scores the floor of a metric."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from gear.evaluation import coverage
from gear.evaluation.floors import Floor, balanced_split, fd_floor, halves, neighbour_floor
from gear.evaluation.frechet import Gaussian, distance
from gear.evaluation.metric_protocol import Absent

CLASSES = 5
SHARES = (0.4, 0.25, 0.15, 0.12, 0.08)
TRAIN = 1400
WIDTH = 24


class World:
    """A distribution of features in classes that are not equally frequent."""

    def __init__(self, seed: int, width: int = WIDTH) -> None:
        self.random = np.random.default_rng(seed)
        self.means = self.random.normal(0, 1, (CLASSES, width))
        self.mixing = self.random.normal(0, 1, (CLASSES, width, width)) / width**0.5

    def draw(self, labels: np.ndarray) -> np.ndarray:
        noise = self.random.normal(size=(len(labels), self.means.shape[1]))
        result: np.ndarray = self.means[labels] + np.einsum(
            "ncd,nd->nc", self.mixing[labels], noise
        )
        return result

    def training(self) -> tuple[np.ndarray, np.ndarray]:
        labels = self.random.choice(CLASSES, TRAIN, p=SHARES)
        return self.draw(labels), labels


@pytest.mark.parametrize("samples", [400, 1300, 5000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_perfect_generator_scores_the_fd_floor(samples: int, seed: int) -> None:
    world = World(seed)
    features, labels = world.training()
    floor = fd_floor(features, labels, samples=samples, reference=TRAIN, seed=0)
    assert isinstance(floor, Floor)
    perfect = [distance(world.draw(np.arange(samples) % CLASSES), features) for _ in range(4)]
    spread = np.hypot(floor.deviation, np.std(perfect, ddof=1))
    assert np.mean(perfect) == pytest.approx(floor.value, abs=3 * spread)
    assert floor.deviation < 0.15 * floor.value


@pytest.mark.parametrize("metric", [coverage.coverage, coverage.recall])
def test_a_perfect_generator_scores_the_floor_of_neighbours(metric: object) -> None:
    world = World(2)
    features, labels = world.training()
    score = partial(metric, k=5)  # type: ignore[call-overload]
    floor = neighbour_floor(score, features, labels, samples=1300, least=6, seed=0)
    assert isinstance(floor, Floor)
    perfect = [score(features, world.draw(np.arange(1300) % CLASSES)) for _ in range(3)]
    assert np.mean(perfect) == pytest.approx(floor.value, abs=3 * floor.deviation)


@pytest.mark.parametrize(("images", "has_floor"), [(2 * WIDTH + 4 * CLASSES, True), (WIDTH, False)])
def test_fewer_images_in_a_half_than_channels_have_no_fd_floor(
    images: int, has_floor: bool
) -> None:
    labels = np.arange(images) % CLASSES
    features = World(4).draw(labels)
    floor = fd_floor(features, labels, samples=400, reference=images, seed=0)
    assert isinstance(floor, Floor if has_floor else Absent)


@pytest.mark.parametrize(
    "sizes",
    [
        [2 * WIDTH + 1],
        [2 * WIDTH + 2],
        [WIDTH + 1, WIDTH + 1],
        [WIDTH + 2, WIDTH],
        [2 * WIDTH - 3, 3, 3],
        [2 * WIDTH - 2, 3, 3],
    ],
)
def test_the_documented_number_of_images_has_an_fd_floor(sizes: list[int]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    documented = 2 * WIDTH + 2 + sum(size % 2 for size in sizes)  # docs/evaluation.md
    features = World(4).draw(labels)
    floor = fd_floor(features, labels, samples=400, reference=len(labels), seed=0, splits=2)
    assert isinstance(floor, Floor if len(labels) >= documented else Absent)


def test_too_few_images_have_no_floor_of_neighbours() -> None:
    labels = np.arange(12) % 4
    features = np.random.default_rng(0).normal(size=(12, 3))
    score = partial(coverage.coverage, k=5)
    floor = neighbour_floor(score, features, labels, samples=12, least=6, seed=0)
    assert isinstance(floor, Absent)
    assert "the smaller one has 4 of them, and 6 are needed" in floor.reason


def test_a_collapsed_generator_is_far_from_the_floor() -> None:
    world = World(3)
    features, labels = world.training()
    floor = fd_floor(features, labels, samples=1300, reference=TRAIN, seed=0)
    assert isinstance(floor, Floor)
    one_class = world.draw(np.zeros(1300, np.int64))
    assert distance(one_class, features) > floor.value + 10 * floor.deviation


def test_splits_share_no_row_and_the_first_is_balanced() -> None:
    labels = np.random.default_rng(0).choice(CLASSES, 500, p=SHARES)
    rows, others = balanced_split(labels, 0.9, np.random.default_rng(1))
    assert not set(rows) & set(others)
    assert len(set(np.bincount(labels[rows]))) == 1
    assert np.bincount(labels[others]) / len(others) == pytest.approx(
        np.bincount(labels) / len(labels), abs=0.02
    )
    first, second = halves(labels, np.random.default_rng(1))
    assert sorted([*first, *second]) == list(range(500))


def test_equal_weights_fit_the_same_gaussian() -> None:
    features = np.random.default_rng(0).normal(size=(50, 4))
    plain = Gaussian.fit(features)
    weighted = Gaussian.fit_weighted(features, np.full(50, 1 / 50))
    assert weighted.mean == pytest.approx(plain.mean)
    assert weighted.covariance == pytest.approx(plain.covariance)
