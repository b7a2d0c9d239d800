"""Test verdicts on made-up records against independent computations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gear.runs.hypotheses import CONTRADICTED, OPEN, SUPPORTED, examine, judge
from gear.runs.intervals import interval
from gear.runs.study_file import HypothesisConfig, PredictionConfig
from gear.runs.study_records import Record
from tests.support.study_records import record

SEEDS = (0, 1, 2)
BASE = [record("base", i, [400, 300, 220, 170, 140 + i]) for i in range(3)]


def better(by: float, spread: float) -> list[Record]:
    return [
        record("arm", i, [400, 200, 120, 100, 140 + i - by + spread * (i - 1)]) for i in range(3)
    ]


def lower(**fields: Any) -> PredictionConfig:
    return PredictionConfig(kind="lower", arm="arm", than=("base",), value="fd", **fields)


def test_evidence_names_the_p_value() -> None:
    expected = stats.ttest_1samp([-50.0, -20.0, 10.0], 0.0).pvalue
    assert f", p {expected:.2g})" in examine(lower(), [*BASE, *better(20.0, 30.0)], SEEDS).evidence


@pytest.mark.parametrize(
    ("by", "spread", "verdict"),
    [(20.0, 1.0, SUPPORTED), (-20.0, 1.0, CONTRADICTED), (20.0, 30.0, OPEN), (0.0, 0.0, OPEN)],
)
def test_a_difference_counts_if_its_interval_is_on_one_side(
    by: float, spread: float, verdict: str
) -> None:
    finding = examine(lower(), [*BASE, *better(by, spread)], SEEDS)
    assert finding.verdict == verdict
    [effect] = finding.effects
    assert effect.per_seed == pytest.approx({i: spread * (i - 1) - by for i in range(3)})
    assert (effect.interval, effect.limit) == (interval(list(effect.per_seed.values())), 0.0)


@pytest.mark.parametrize("by", [20.0, -20.0])
def test_one_difference_in_all_seeds_is_no_interval(by: float) -> None:
    finding = examine(lower(), [*BASE, *better(by, 0.0)], SEEDS)
    assert finding.verdict == OPEN
    assert "(no interval: one seed, or equal in all)" in finding.evidence


def test_higher_is_the_mirror_of_lower() -> None:
    records = [*BASE, *better(20.0, 1.0)]
    higher = PredictionConfig(kind="higher", arm="arm", than=("base",), value="fd")
    assert examine(higher, records, SEEDS).verdict == CONTRADICTED
    swapped = PredictionConfig(kind="higher", arm="base", than=("arm",), value="fd")
    assert examine(swapped, records, SEEDS).verdict == SUPPORTED


def test_pairs_are_of_one_seed_whatever_the_order_and_lone_seeds_are_left_out() -> None:
    records = [*better(20.0, 1.0)[::-1], record("arm", 7, [1] * 5), *BASE]
    assert examine(lower(), records, SEEDS) == examine(lower(), [*BASE, *better(20.0, 1.0)], SEEDS)


def test_it_has_to_hold_against_every_arm() -> None:
    weak = [record("weak", i, [400, 390, 380, 370, 360]) for i in range(3)]
    strong = [record("strong", i, [400, 90, 80, 70, 60]) for i in range(3)]
    records = [*weak, *strong, *BASE, *better(20.0, 1.0)]

    def against(*others: str) -> str:
        prediction = PredictionConfig(kind="lower", arm="arm", than=others, value="fd")
        return examine(prediction, records, SEEDS).verdict

    assert against("weak", "base") == SUPPORTED
    assert against("weak", "base", "strong") == CONTRADICTED


def test_equal_arms_are_seldom_called_unlike() -> None:
    """Test that at most 5 % of identical arms differ, even if compared with three others."""
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(400):
        records = [
            record(arm, i, [400, 300, 200, 150, 100 + random.normal()])
            for arm in ("arm", "a", "b", "c")
            for i in range(3)
        ]
        prediction = PredictionConfig(kind="lower", arm="arm", than=("a", "b", "c"), value="fd")
        verdicts.append(examine(prediction, records, SEEDS).verdict)
    assert verdicts.count(SUPPORTED) <= 400 * 0.05
    assert verdicts.count(CONTRADICTED) <= 400 * 0.05


def test_seeds_that_have_not_run_leave_it_open() -> None:
    two = [one for one in (*BASE, *better(20.0, 1.0)) if one.seed < 2]
    assert examine(lower(), two, (0, 1)).verdict == SUPPORTED
    finding = examine(lower(), two, SEEDS)
    assert finding.verdict == OPEN
    assert "2 of 3 seeds" in finding.evidence


@pytest.mark.parametrize(
    "fields", [{"code": "other"}, {"provenance": {"hardware": "other"}}], ids=str
)
def test_runs_of_other_code_or_hardware_are_no_pair(fields: dict[str, Any]) -> None:
    arm = [record("arm", i, [400, 200, 120, 100, 90], **fields) for i in range(3)]
    for kind in ("lower", "sooner"):
        prediction = PredictionConfig(kind=kind, arm="arm", than=("base",))
        finding = examine(prediction, [*BASE, *arm], SEEDS)
        assert finding.verdict == OPEN
        assert "seed 0 left out: made " in finding.evidence


def test_what_is_not_finite_is_not_compared() -> None:
    arm = [record("arm", i, [400, 200, 120, 100, 90]) for i in range(3)]
    arm[0].metrics["fd"]["value"] = float("nan")
    finding = examine(lower(), [*BASE, *arm], SEEDS)
    assert finding.verdict == OPEN
    assert "seed 0 left out: fd was not measured, or is not finite" in finding.evidence


def test_a_baseline_that_ends_where_it_began_is_no_target() -> None:
    worse = [record("base", i, [400, 410, 415, 420, 420]) for i in range(3)]
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    finding = examine(prediction, [*worse, *better(20.0, 1.0)], SEEDS)
    assert finding.verdict == OPEN
    assert "no better than the start" in finding.evidence


def test_a_near_miss_decides_nothing() -> None:
    """Test three seeds that just miss the target: no evidence that the arm is slower."""
    near = [
        record("arm", i, [400, 300, 220, 170, 140 + i + gap]) for i, gap in enumerate((0.1, 4, 9))
    ]
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    assert examine(prediction, [*BASE, *near], SEEDS).verdict == OPEN


def test_one_seed_or_an_absent_arm_decides_nothing() -> None:
    assert examine(lower(), [BASE[0], better(20.0, 1.0)[0]], (0,)).verdict == OPEN
    assert "not run: arm" in examine(lower(), BASE, SEEDS).evidence


@pytest.mark.parametrize("value", ["loss/ntp", "val/ntp_bits"])
def test_curves_are_compared_if_only_one_arm_measures_guidance(value: str) -> None:
    """A guided arm's curve also has the gradients of guidance, with a protocol of their own."""
    protocol = {"fd": {"n": 4}, "val": {"n": 8}}
    runs = []
    for arm, bits, more in (("base", 140.0, {}), ("arm", 120.0, {"guidance": {"n": 32}})):
        rows = [{"step": 0, value: 400.0}, {"step": 400, value: bits}]
        for seed in SEEDS:
            change = {"curve": [*rows[:1], {**rows[1], value: bits + seed * 0.1 * len(more)}]}
            one = record(arm, seed, [400, 300, 220, 170, 140], curve_protocol=protocol | more)
            runs.append(one.model_copy(update=change))
    prediction = lower().model_copy(update={"value": value})
    assert examine(prediction, runs, SEEDS).verdict == SUPPORTED
    other = {"fd": {"n": 4}, "val": {"n": 9}, "loss": {"n": 9}}
    runs[-1] = runs[-1].model_copy(update={"curve_protocol": other})
    found = examine(prediction, runs, SEEDS)
    assert found.verdict == OPEN
    assert "seed 2 left out: curves of different protocols" in found.evidence


def test_a_threshold_that_each_run_finds_for_itself_is_no_other_protocol() -> None:
    base = [record("base", s, [9, 9, 9, 9, 9], protocol={"threshold": s}) for s in SEEDS]
    arm = [record("arm", s, [9, 9, 9, 9, 1 + s / 9], protocol={"threshold": 7 + s}) for s in SEEDS]
    assert examine(lower(), [*base, *arm], SEEDS).verdict == SUPPORTED


def test_values_of_different_protocols_are_not_compared() -> None:
    other = [
        record("arm", i, [400, 200, 120, 100, 90], protocol={"guidance": 2.0}) for i in range(3)
    ]
    finding = examine(lower(), [*BASE, *other], SEEDS)
    assert finding.verdict == OPEN
    assert "different protocols" in finding.evidence


def test_an_arm_that_never_gets_there_is_not_sooner() -> None:
    never = [record("arm", i, [400, 390, 380, 370, 360]) for i in range(3)]
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    finding = examine(prediction, [*BASE, *never], SEEDS)
    assert finding.verdict == CONTRADICTED
    assert "reached by 0 of 3 seeds" in finding.evidence
    mixed = [*never[:2], record("arm", 2, [400, 100, 100, 100, 100])]
    assert examine(prediction, [*BASE, *mixed], SEEDS).verdict == OPEN


def test_seeds_that_get_far_below_the_target_weigh_against_those_that_miss_it() -> None:
    """Test five seeds that miss the target by 5 and one that ends 80 below it."""
    base = [record("base", i, [400, 300, 220, 170, 140]) for i in range(6)]
    arm = [record("arm", i, [400, 300, 220, 170, 145]) for i in range(5)]
    arm.append(record("arm", 5, [400, 200, 120, 100, 60]))
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    finding = examine(prediction, [*base, *arm], range(6))
    assert finding.verdict == OPEN
    assert "reached by 1 of 6 seeds" in finding.evidence


def test_an_arm_that_misses_in_one_seed_is_not_called_sooner() -> None:
    """Test nine seeds that end 80 below the target and one that just misses it."""
    base = [record("base", i, [400, 300, 220, 170, 140]) for i in range(10)]
    arm = [record("arm", i, [400, 200, 120, 100, 60 + i]) for i in range(9)]
    arm.append(record("arm", 9, [400, 300, 220, 170, 141]))
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    assert examine(prediction, [*base, *arm], range(10)).verdict == OPEN


def test_a_fall_is_measured_from_the_first_value() -> None:
    falls = PredictionConfig(kind="falls", arm="base", value="loss/ntp", to=0.5)
    assert examine(falls, BASE, SEEDS).verdict == SUPPORTED  # from 400 to at most 142
    assert examine(falls.model_copy(update={"to": 0.2}), BASE, SEEDS).verdict == CONTRADICTED


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
        assert judge(claim, records, SEEDS)[0] == verdict


def test_an_arm_that_gets_there_in_every_seed_is_sooner() -> None:
    """Test an arm that reaches 140 after about 175 steps, where the others need 400."""
    base = [record("base", i, [400, 300, 220, 170, 140]) for i in range(3)]
    arm = [record("arm", i, [400, 200, 120 - i, 100, 90]) for i in range(3)]
    prediction = PredictionConfig(kind="sooner", arm="arm", than=("base",))
    finding = examine(prediction, [*base, *arm], SEEDS)
    assert finding.verdict == SUPPORTED
    expected = {i: 400 / (100 + 100 * 60 / (80 + i)) for i in range(3)}
    [effect] = finding.effects
    assert effect.per_seed == pytest.approx(expected)
    logs = interval([math.log(ratio) for ratio in expected.values()])
    bounds = (logs.mean, logs.low, logs.high)
    assert tuple(
        math.log(x) for x in (effect.interval.mean, effect.interval.low, effect.interval.high) if x
    ) == pytest.approx(bounds)
