"""Test the drift between dataset versions against scipy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from gear.validation import dataset_drift


def test_thresholds_hold_for_what_does_not_drift_and_distances_are_evidently_s(
    tmp_path: Path,
) -> None:
    def drawn(seed: int, rows: int = 300, shift: float = 0.0) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        columns: dict[str, Any] = {
            "class": random.choice(["cats", "dogs", "owls"], rows, p=[0.5, 0.3, 0.2]),
            "caption_length": 4,
            "width": random.integers(30, 60, rows).astype(float),
            "height": np.nan,
            "brightness": random.normal(0.5 + shift, 0.1, rows).astype(np.float32),
            "features": list(random.normal(size=(rows, 12)).astype(np.float16)),
        }
        return pd.DataFrame(columns)

    reference = drawn(0)
    alarms = 0
    for seed in range(1, 8):
        alarms += any(
            c["drifted"]
            for c in dataset_drift.compare(reference, drawn(seed), 0, tmp_path / "page.html")
        )
    assert alarms <= 1
    shifted = drawn(99, 200, 0.08)
    found = {
        c["column"]: c for c in dataset_drift.compare(reference, shifted, 0, tmp_path / "page.html")
    }
    assert [name for name, c in found.items() if c["drifted"]] == ["brightness"]
    assert "height" not in found
    wanted = wasserstein_distance(reference["brightness"], shifted["brightness"]) / reference[
        "brightness"
    ].std(ddof=0)
    assert found["brightness"]["distance"] == pytest.approx(wanted, rel=1e-5)
    longer = dataset_drift.compare(
        reference, drawn(1).assign(caption_length=5), 0, tmp_path / "page.html"
    )
    assert [c["column"] for c in longer if c["drifted"]] == ["caption_length"], (
        "a constant that changed"
    )
