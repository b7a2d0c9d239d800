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
