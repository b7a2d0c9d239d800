"""Test the comparison of metrics by their protocols, and records without a value."""

from __future__ import annotations

import pytest

from gear.core.errors import InputError
from gear.evaluation.metric_protocol import (
    Absent,
    Metric,
    absent_records,
    describe,
    difference,
    require_records,
)


def test_metrics_of_different_protocols_are_not_compared() -> None:
    assert difference(Metric(1.0, {"n": 5}), Metric(3.0, {"n": 5})) == 2.0
    with pytest.raises(ValueError, match=r"n: 5 against 6"):
        difference(Metric(1.0, {"n": 5}), Metric(1.0, {"n": 6}))


def test_a_metric_that_could_not_be_computed_has_a_reason_and_no_value() -> None:
    records = {"fd": Metric(1.0, {"n": 5}).record(), "rfid": Absent("one image").record()}
    assert require_records(records, "file") == {"fd": records["fd"]}
    assert absent_records(records) == {"rfid": records["rfid"]}
    assert describe(records["rfid"]) == "not computed: one image"
    with pytest.raises(InputError, match="'fd' is no value with its protocol"):
        require_records({"fd": {"value": None, "protocol": {"n": 5}}}, "file")
