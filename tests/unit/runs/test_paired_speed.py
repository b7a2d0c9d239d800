"""Test ratios of costs on made-up curves whose crossings are known."""

from __future__ import annotations

import pytest

from gear.runs.paired_speed import measure_speed_up
from tests.support.study_records import record


def test_sooner_counts_steps_seconds_and_flops_to_the_other_arms_end() -> None:
    """Test an arm that reaches 140 after 175 of 400 steps.

    Its curve is a straight line from 200 at step 100 to 120 at step 200.
    """
    base = {0: record("base", 0, [400, 300, 220, 170, 140])}
    costs = {"seconds": {"tokenizer": 50.0, "joint": 200.0}}
    arm = {0: record("arm", 0, [400, 200, 120, 100, 90], **costs)}
    ratios = measure_speed_up(arm, base, "fd").ratios
    assert ratios["steps"][0] == pytest.approx(400 / 175)
    assert ratios["seconds"][0] == pytest.approx(100 / (200 * 175 / 400))
    assert ratios["seconds + warm-up"][0] == pytest.approx(150 / (50 + 200 * 175 / 400))
    assert ratios["flops"][0] == pytest.approx(400 / 175)
    assert ratios["flops + warm-up"][0] == pytest.approx(5 / (1 + 4 * 175 / 400))


def test_steps_of_the_generator_alone_have_their_own_cost() -> None:
    """Test an arm that gets there after 150 joint steps of 2 s and 25 other ones of 0.5 s."""
    base = {0: record("base", 0, [400, 300, 220, 170, 140])}
    stages = {"settings": {"joint.steps": 150, "generator.steps": 250}}
    costs = {"seconds": {"tokenizer": 50.0, "joint": 300.0, "generator": 125.0}, "flops": {}}
    arm = {0: record("arm", 0, [400, 200, 120, 100, 90], **stages, **costs)}
    ratios = measure_speed_up(arm, base, "fd").ratios
    assert ratios["seconds"][0] == pytest.approx(100 / (300 + 12.5))
    assert ratios["seconds + warm-up"][0] == pytest.approx(150 / (50 + 300 + 12.5))
    assert "flops" not in ratios
