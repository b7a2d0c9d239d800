"""Test the drift of token histograms against scipy and Evidently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from gear.evaluation import token_drift


def test_drift_agrees_with_scipy_and_evidently_and_knows_a_null(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    same, other = (
        random.choice(6, (200, 9), p=p) for p in ([1 / 6] * 6, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    )
    again = random.choice(6, (200, 9))
    histograms = [np.bincount(x.ravel(), minlength=6) for x in (same, other)]
    shifted = token_drift.measure_token_drift(same, other, 6, 0, tmp_path / "shifted.html")
    assert shifted["distance"] == pytest.approx(jensenshannon(*histograms), abs=1e-6)
    assert shifted["drifted"]
    assert not token_drift.measure_token_drift(same, again, 6, 0, tmp_path / "again.html")[
        "drifted"
    ]


def test_evenly_spaced_images_stand_for_large_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test sets that are equal in ten evenly spaced images, and differ in all others."""
    reference, current = np.zeros((91, 9), np.int64), np.ones((46, 9), np.int64)
    current[::5] = 0
    monkeypatch.setattr(token_drift, "TOKENS", 95)
    found = token_drift.measure_token_drift(reference, current, 2, 0, tmp_path / "page.html")
    assert found["distance"] == 0
    assert not found["drifted"]


def test_samples_are_compared_in_their_balance_of_classes(tmp_path: Path) -> None:
    """Test 900 images of a class and 60 of another against balanced draws of both.

    Classes use other codes, so balanced draws differ from the images as they are.
    """
    random = np.random.default_rng(0)
    shares = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])

    def images(labels: np.ndarray) -> np.ndarray:
        """Return 16 tokens an image; those of an image are alike."""
        favourites = np.array([random.choice(4, p=shares[label]) for label in labels])
        others = np.array([random.choice(4, 16, p=shares[label]) for label in labels])
        return np.where(random.random((len(labels), 16)) < 0.5, favourites[:, None], others)

    labels, balanced = np.repeat([0, 1], [900, 60]), np.arange(600) % 2
    reference = images(labels)
    found = [
        token_drift.measure_token_drift(
            reference, images(balanced), 4, seed, tmp_path / "page.html", (labels, balanced)
        )
        for seed in range(5)
    ]
    assert sum(one["drifted"] for one in found) <= 1
    current = images(balanced)
    unbalanced = token_drift.measure_token_drift(reference, current, 4, 0, tmp_path / "page.html")
    assert unbalanced["drifted"]
    # else what the balance changes would hide what the samples change
    assert all(one["threshold"] < unbalanced["distance"] / 2 for one in found)
    current[balanced == 1] = current[balanced == 0]  # the second class looks like the first
    copied = token_drift.measure_token_drift(
        reference, current, 4, 0, tmp_path / "page.html", (labels, balanced)
    )
    assert copied["drifted"]


def test_balanced_rows_have_the_wanted_shares() -> None:
    labels = np.repeat([0, 1, 2, 4], [500, 300, 190, 10])
    like = np.repeat([0, 1, 2, 3], [10, 20, 10, 5])  # no image has class 3, no sample class 4
    rows = token_drift.balanced_rows(labels, like)
    assert len(rows) == 1000
    assert np.bincount(labels[rows]).tolist() == [250, 500, 250]
    used = np.bincount(rows, minlength=1000)
    assert set(used[:500]) == {0, 1}
    assert set(used[500:800]) == {1, 2}
    assert set(used[800:990]) == {1, 2}
    alone = np.zeros(7, int)
    assert token_drift.balanced_rows(alone, np.zeros(3, int)).tolist() == list(range(7))
