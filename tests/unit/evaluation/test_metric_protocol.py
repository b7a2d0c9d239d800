"""Test the comparison of metrics by their protocols."""

from __future__ import annotations

import pytest

from gear.evaluation.metric_protocol import Metric, difference


def test_metrics_of_different_protocols_are_not_compared() -> None:
    assert difference(Metric(1.0, {"n": 5}), Metric(3.0, {"n": 5})) == 2.0
    with pytest.raises(ValueError, match=r"n: 5 against 6"):
        difference(Metric(1.0, {"n": 5}), Metric(1.0, {"n": 6}))
