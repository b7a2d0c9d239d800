"""Test coverage and recall on points that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gear.evaluation import coverage


def test_coverage_and_recall_on_points_one_can_count() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    fake = np.array([[0.5], [1.5], [2.5]])
    assert coverage.coverage(real, fake, 1) == pytest.approx(0.5)
    assert coverage.recall(real, fake, 1) == pytest.approx(0.5)
