"""Test the floors of samples where images have several captions, or where there are few."""

from __future__ import annotations

import numpy as np
import pytest

from gear.evaluation.efficientnet_reference import FeatureReference
from gear.evaluation.frechet import Gaussian
from gear.evaluation.metric_protocol import Absent, Metric
from gear.evaluation.sample_quality import caption_floors, class_floors

K = 5
WIDTH = 6
RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.normal(size=(400, WIDTH)).astype(np.float32)
OWN = RANDOM.normal(size=(60, WIDTH)).astype(np.float32)
LABELS = np.arange(400) % 4


def reference(features: np.ndarray, distinct: np.ndarray) -> FeatureReference:
    return FeatureReference(Gaussian.fit(features), features, 64, distinct)


def values(floors: dict[str, Metric | Absent]) -> dict[str, float | None]:
    return {name: floor.record()["value"] for name, floor in floors.items()}


def test_floors_of_captions_say_how_many_images_they_are_of() -> None:
    floors = caption_floors(reference(TRAIN, np.arange(400)), OWN, K, {})
    assert {name: f.record()["protocol"]["distinct_images"] for name, f in floors.items()} == {
        "fd_floor": 60,
        "coverage_floor": 60,
        "recall_floor": 60,
    }
    assert values(floors)["recall_floor"] > 0.5


def test_training_images_with_several_captions_are_neighbours_once() -> None:
    """Each training image is in six rows: five copies would be its five nearest neighbours."""
    rows = np.repeat(TRAIN, K + 1, axis=0)
    once = caption_floors(reference(TRAIN, np.arange(400)), OWN, K, {})
    often = caption_floors(reference(rows, np.arange(400) * (K + 1)), OWN, K, {})
    assert values(often)["coverage_floor"] == values(once)["coverage_floor"]
    assert values(often)["recall_floor"] == values(once)["recall_floor"]
    assert once["coverage_floor"].record()["value"] > 0.3


def test_floors_of_classes_split_distinct_images() -> None:
    """A copy in the other half would make the two halves alike."""
    rows, labels = np.repeat(TRAIN, 2, axis=0), np.repeat(LABELS, 2)
    plain = class_floors(reference(TRAIN, np.arange(400)), LABELS, 300, K, 0, {})
    doubled = class_floors(reference(rows, np.arange(400) * 2), labels, 300, K, 0, {})
    assert values(doubled) == values(plain)
    assert None not in values(plain).values()
    assert {m.record()["protocol"].get("distinct_images") for m in doubled.values()} == {400}
    assert {m.record()["protocol"].get("distinct_images") for m in plain.values()} == {None}


def test_a_floor_of_classes_of_too_few_images_is_absent_and_says_why() -> None:
    images = 2 * WIDTH  # a half has as many as the features have channels
    rows, labels = TRAIN[:images], LABELS[:images]
    floors = class_floors(reference(rows, np.arange(images)), labels, 300, K, 0, {})
    reasons = {n: floor.reason for n, floor in floors.items() if isinstance(floor, Absent)}
    assert set(floors) == {"fd_floor", "coverage_floor", "recall_floor"}
    assert "the features have channels" in reasons["fd_floor"]


@pytest.mark.parametrize(
    ("images", "absent"), [(1, {"fd_floor", "recall_floor"}), (5, {"recall_floor"}), (6, set())]
)
def test_a_floor_of_too_few_images_is_absent_and_says_why(images: int, absent: set[str]) -> None:
    floors = caption_floors(reference(TRAIN, np.arange(400)), OWN[:images], K, {})
    reasons = {n: floor.reason for n, floor in floors.items() if isinstance(floor, Absent)}
    assert set(reasons) == absent
    assert all("distinct validation images" in reason for reason in reasons.values())
    assert all(np.isfinite(floor.value) for floor in floors.values() if isinstance(floor, Metric))
