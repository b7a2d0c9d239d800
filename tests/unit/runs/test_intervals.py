"""Test intervals and p-values against SciPy's paired t test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gear.runs.intervals import interval, p_value


def test_an_interval_is_the_one_of_a_paired_t_test() -> None:
    first, second = np.array([3.0, 5.5, 4.0, 6.0]), np.array([2.0, 5.0, 2.5, 5.5])
    found = interval(list(first - second))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert p_value(list(first - second)) == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_values_that_differ_by_rounding_alone_have_no_interval() -> None:
    values = [0.3, 0.1 + 0.2, 0.3]
    assert values[0] != values[1]
    assert interval(values).low is None
    assert math.isnan(p_value(values))
