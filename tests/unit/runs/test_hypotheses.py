"""Verdicts on made-up records, against computations of another kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from gear.runs.hypotheses import (
    CONTRADICTED,
    OPEN,
    SUPPORTED,
    examine,
    interval,
    judge,
    measure_speed,
)
from gear.runs.study_file import HypothesisConfig, PredictionConfig
from gear.runs.study_records import Record

STEPS = range(0, 401, 100)


def record(arm: str, seed: int, fd: list[float], **fields: Any) -> Record:
    protocol = {"n": 4, "seeds": seed, **fields.pop("protocol", {})}
    values: dict[str, Any] = {
        "settings": {"joint.steps": 400},
        "commit": "",
        "code": "",
        "metrics": {"fd": {"value": fd[-1], "protocol": protocol}},
        "curve": [{"step": s, "fd": v, "loss/ntp": v} for s, v in zip(STEPS, fd, strict=True)],
        "warm_up": [],
        "seconds": {"tokenizer": 50.0, "joint": 100.0},
        "flops": {"tokenizer": 1e12, "joint": 4e12},
        "provenance": {},
    }
    return Record(arm=arm, seed=seed, **{**values, **fields})


BASE = [record("base", i, [400, 300, 220, 170, 140 + i]) for i in range(3)]


def better(by: float, spread: float) -> list[Record]:
    return [
        record("arm", i, [400, 200, 120, 100, 140 + i - by + spread * (i - 1)]) for i in range(3)
    ]


def lower(**fields: Any) -> PredictionConfig:
    return PredictionConfig(kind="lower", arm="arm", than=("base",), value="fd", **fields)


def test_an_interval_is_the_one_of_a_paired_t_test() -> None:
    first, second = np.array([3.0, 5.5, 4.0, 6.0]), np.array([2.0, 5.0, 2.5, 5.5])
    found = interval(list(first - second))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("by", "spread", "verdict"),
    [(20.0, 1.0, SUPPORTED), (-20.0, 1.0, CONTRADICTED), (20.0, 30.0, OPEN), (0.0, 0.0, OPEN)],
)
def test_a_difference_counts_if_its_interval_is_on_one_side(
    by: float, spread: float, verdict: str
) -> None:
    finding = examine(lower(), [*BASE, *better(by, spread)])
    assert finding.verdict == verdict
    assert finding.per_seed == pytest.approx({i: spread * (i - 1) - by for i in range(3)})


def test_higher_is_the_mirror_of_lower() -> None:
    records = [*BASE, *better(20.0, 1.0)]
    higher = PredictionConfig(kind="higher", arm="arm", than=("base",), value="fd")
    assert examine(higher, records).verdict == CONTRADICTED
    swapped = PredictionConfig(kind="higher", arm="base", than=("arm",), value="fd")
    assert examine(swapped, records).verdict == SUPPORTED


def test_pairs_are_of_one_seed_whatever_the_order_and_lone_seeds_are_left_out() -> None:
    records = [*better(20.0, 1.0)[::-1], record("arm", 7, [1] * 5), *BASE]
    assert examine(lower(), records) == examine(lower(), [*BASE, *better(20.0, 1.0)])


def test_of_several_arms_the_best_is_compared_with() -> None:
    weak = [record("weak", i, [400, 390, 380, 370, 360]) for i in range(3)]
    prediction = PredictionConfig(kind="lower", arm="arm", than=("weak", "base"), value="fd")
    assert "base 141" in examine(prediction, [*weak, *BASE, *better(20.0, 1.0)]).evidence


def test_one_seed_or_an_absent_arm_decides_nothing() -> None:
    assert examine(lower(), [BASE[0], better(20.0, 1.0)[0]]).verdict == OPEN
    assert "not run: arm" in examine(lower(), BASE).evidence


def test_values_of_different_protocols_are_not_compared() -> None:
    other = [
        record("arm", i, [400, 200, 120, 100, 90], protocol={"guidance": 2.0}) for i in range(3)
    ]
    finding = examine(lower(), [*BASE, *other])
    assert finding.verdict == OPEN
    assert "different protocols" in finding.evidence


def test_sooner_counts_steps_seconds_and_flops_to_the_other_arms_end() -> None:
    """The arm is at 140 after 175 of 400 steps: a straight line from 200 at 100 to 120 at 200."""
    base = {0: record("base", 0, [400, 300, 220, 170, 140])}
    costs = {"seconds": {"tokenizer": 50.0, "joint": 200.0}}
    arm = {0: record("arm", 0, [400, 200, 120, 100, 90], **costs)}
    ratios = measure_speed(arm, base, "fd").ratios
    assert ratios["steps"][0] == pytest.approx(400 / 175)
    assert ratios["seconds"][0] == pytest.approx(100 / (200 * 175 / 400))
    assert ratios["seconds + warm-up"][0] == pytest.approx(150 / (50 + 200 * 175 / 400))
    assert ratios["flops"][0] == pytest.approx(400 / 175)
    assert ratios["flops + warm-up"][0] == pytest.approx(5 / (1 + 4 * 175 / 400))


def test_an_arm_that_never_gets_there_is_not_sooner() -> None:
    never = [record("arm", i, [400, 390, 380, 370, 360]) for i in range(3)]
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    finding = examine(prediction, [*BASE, *never])
    assert finding.verdict == CONTRADICTED
    assert "reached by 0 of 3 seeds" in finding.evidence
    mixed = [*never[:2], record("arm", 2, [400, 100, 100, 100, 100])]
    assert examine(prediction, [*BASE, *mixed]).verdict == OPEN


def test_a_fall_is_measured_from_the_first_value() -> None:
    falls = PredictionConfig(kind="falls", arm="base", value="loss/ntp", to=0.5)
    assert examine(falls, BASE).verdict == SUPPORTED  # 140 to 142 of 400
    assert examine(falls.model_copy(update={"to": 0.2}), BASE).verdict == CONTRADICTED


def test_a_claim_holds_if_all_it_predicts_comes_out() -> None:
    records = [*BASE, *better(20.0, 1.0)]
    right, wrong = lower(), PredictionConfig(kind="lower", arm="base", than=("arm",), value="fd")
    unknown = PredictionConfig(kind="lower", arm="arm", than=("nobody",), value="fd")
    for predictions, verdict in (
        ((right,), SUPPORTED),
        ((right, unknown), OPEN),
        ((right, unknown, wrong), CONTRADICTED),
    ):
        claim = HypothesisConfig(claim="", predictions=predictions)
        assert judge(claim, records)[0] == verdict
