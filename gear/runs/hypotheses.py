"""Test the predictions of a study's hypotheses on its records.

Runs of two arms with the same seed start from the same data, warm tokenizer and batches, so they
are compared in pairs. With few seeds a bootstrap's interval is too narrow (three differences have
ten distinct resamples), so intervals are Student's t of the paired differences, or of the
logarithms of paired ratios.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from gear.evaluation.metric_protocol import Metric, difference
from gear.runs.comparison import OF_A_RUN, decimals, steps_to
from gear.runs.study_file import HypothesisConfig, PredictionConfig
from gear.runs.study_records import Record

LEVEL = 0.95
ROUNDING = 1e-9  # spreads below this share of the largest value are rounding
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "open"
Runs = dict[int, Record]  # of one arm, by seed


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its interval; `low` and `high` are None if there is none."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Effect:
    """The differences or ratios that a prediction is about, with their interval.

    title: What they are, such as `fd: gear - continued`.
    per_seed: Differences or ratios by seed.
    interval: Their mean over seeds; that of ratios is geometric.
    limit: The prediction is that they lie to one side of this value: 0 of differences.
    above: Whether that side is the upper one.
    """

    title: str
    per_seed: dict[int, float]
    interval: Interval
    limit: float
    above: bool


@dataclass(frozen=True)
class Comparison:
    """Comparison of an arm with another one, paired by seed.

    advantages: Differences or logarithms of ratios by seed, positive if as predicted.
    evidence: A sentence with the numbers.
    contradicted: Whether the opposite is significant, at a level corrected for several other arms.
    effect: What to draw; None if there is nothing to compare, or a value was never reached.
    """

    advantages: dict[int, float]
    evidence: str
    supported: bool
    contradicted: bool
    effect: Effect | None


@dataclass(frozen=True)
class Finding:
    """The result of one prediction.

    verdict: `supported`, `contradicted` or `open`.
    evidence: Sentences with the numbers, one for each other arm.
    effects: Differences or ratios, for each other arm that could be compared.
    """

    prediction: PredictionConfig
    verdict: str
    evidence: str
    effects: list[Effect]


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of independent values and its Student's t interval.

    There is no interval for fewer than two values, nor for equal ones, whose spread of 0 would give
    one of no width.

    level: confidence level in (0, 1). The mean of no values is nan.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> round(found.low, 3), found.mean, round(found.high, 3)
    (-0.484, 2.0, 4.484)
    """
    if not _spread(values):
        return Interval(fmean(values) if values else math.nan, None, None)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(fmean(values), fmean(values) - half, fmean(values) + half)


def p_value(values: Sequence[float]) -> float:
    """Return the two-sided p-value of a t test that independent values have the mean 0.

    nan with fewer than two values, or equal ones. Else it is below 1 - `level` if `interval` leaves
    out 0.

    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    if not _spread(values):
        return math.nan
    error = stdev(values) / len(values) ** 0.5
    return float(2 * stats.t.sf(abs(fmean(values)) / error, len(values) - 1))


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 if it is no more than rounding, or of fewer than two."""
    if len(values) < 2:
        return 0.0
    found = stdev(values)
    return found if found > ROUNDING * max(map(abs, values)) else 0.0


def judge(
    hypothesis: HypothesisConfig, records: Sequence[Record], seeds: Collection[int]
) -> tuple[str, list[Finding]]:
    """Return the verdict on a hypothesis and the finding of each prediction.

    It is supported if all predictions are, contradicted if one of them is, and else open.

    Args:
        hypothesis: The claim and its predictions.
        records: Records of all finished runs.
        seeds: Seeds of the study; a prediction is open until all have run.
    """
    findings = [examine(prediction, records, seeds) for prediction in hypothesis.predictions]
    verdicts = {finding.verdict for finding in findings}
    if CONTRADICTED in verdicts:
        return CONTRADICTED, findings
    return (SUPPORTED if verdicts == {SUPPORTED} else OPEN), findings


def examine(
    prediction: PredictionConfig, records: Sequence[Record], seeds: Collection[int]
) -> Finding:
    """Test a prediction on the records so far.

    It is supported if it holds against every arm of `than`, so that no weak one can be chosen after
    the fact, and contradicted if the opposite is significant against one.
    """
    by_arm = by_arm_and_seed(records)
    absent = [arm for arm in (prediction.arm, *prediction.than) if arm not in by_arm]
    if absent:
        return Finding(prediction, OPEN, f"not run: {', '.join(absent)}", [])
    arm = by_arm[prediction.arm]
    if prediction.kind == "falls":
        found = [_fall(prediction, arm)]
    else:
        compare = _sooner if prediction.kind == "sooner" else _ordered
        level = 1 - (1 - LEVEL) / len(prediction.than)
        found = [compare(prediction, arm, by_arm[other], other, level) for other in prediction.than]
    verdict = OPEN
    if any(one.contradicted for one in found):
        verdict = CONTRADICTED
    elif all(one.supported for one in found):
        verdict = SUPPORTED
    evidence = "; ".join(one.evidence for one in found)
    pairs = min(len(one.advantages) for one in found)
    if pairs < len(seeds):
        verdict, evidence = OPEN, f"{evidence}; {pairs} of {len(seeds)} seeds, so open"
    effects = [one.effect for one in found if one.effect is not None]
    return Finding(prediction, verdict, evidence, effects)


def by_arm_and_seed(records: Sequence[Record]) -> dict[str, Runs]:
    """Return records by arm, then by seed."""
    found: dict[str, Runs] = {}
    for record in records:
        found.setdefault(record.arm, {})[record.seed] = record
    return found


def end_value(record: Record, name: str) -> float | None:
    """Return a metric, else the last value of a quantity of the curve.

    None if there is neither, or it is not finite.
    """
    metric = record.metric(name)
    points = record.points(name)
    value = metric.value if metric is not None else points[-1][1] if points else math.nan
    return value if math.isfinite(value) else None


def unlike(one: Record, other: Record) -> str:
    """Return why two runs of a seed cannot be compared, such as other hardware; "" if they can."""
    for name in ("hardware", "threads", "packages"):
        if one.provenance.get(name) != other.provenance.get(name):
            return f"made with other {name}"
    return "made by other code" if one.code != other.code else ""


def curve_protocol(record: Record, quantity: str) -> Any:
    """Return how a quantity of the curve was measured; None for losses, which need no protocol.

    `val/ntp_bits` has the protocol `val`.
    """
    return record.curve_protocol.get(quantity.partition("/")[0])


def comparable_curves(one: Record, other: Record, quantity: str) -> bool:
    """Return whether the curves of two runs of a seed can be subtracted."""
    same = curve_protocol(one, quantity) == curve_protocol(other, quantity)
    return same and not unlike(one, other)


def _without_run(metric: Metric | None) -> Metric | None:
    """Return a metric without what its protocol has of its run alone, such as a threshold."""
    if metric is None:
        return None
    return Metric(metric.value, {k: v for k, v in metric.protocol.items() if k not in OF_A_RUN})


@dataclass(frozen=True)
class Speed:
    """How much sooner an arm reaches the last value of another, by seed and unit of cost.

    ratios: The other's cost over that of the arm, by unit, then seed; a seed whose arm never
        reaches the value is absent. `steps + warm-up` and the like count the warm-up for both.
    margins: How far below it the arm's best value is, by seed; negative if it is never reached.
    left_out: Seeds that cannot be compared, with the reason.
    """

    ratios: dict[str, dict[int, float]]
    margins: dict[int, float]
    left_out: dict[int, str]

    @property
    def missed(self) -> dict[int, float]:
        """How far above the value the best of an arm that never reaches it is, by seed."""
        return {seed: -margin for seed, margin in self.margins.items() if margin < 0}


def measure_speed(arm: Runs, other: Runs, quantity: str) -> Speed:
    """Return how much sooner an arm's curve falls to the last value of another's, seed by seed.

    A curve is linear between its points. The other's cost is counted up to the first step at which
    it is as good as at its end.
    """
    found = Speed({}, {}, {})
    for seed in sorted(arm.keys() & other.keys()):
        slow, fast = (np.array(one[seed].points(quantity)) for one in (other, arm))
        reason = unlike(arm[seed], other[seed])
        if not len(slow) or not len(fast):
            reason = "no curve"
        elif curve_protocol(arm[seed], quantity) != curve_protocol(other[seed], quantity):
            reason = "curves of different protocols"
        elif slow[-1, 1] >= fast[0, 1] or slow[-1, 1] >= slow[0, 1]:
            reason = "the other ends no better than the start"
        if reason:
            found.left_out[seed] = reason
            continue
        target = float(slow[-1, 1])
        found.margins[seed] = target - float(fast[:, 1].min())
        needed = steps_to(fast[:, 0], fast[:, 1], target)
        if needed is None:
            continue
        base = steps_to(slow[:, 0], slow[:, 1], target) or float(slow[-1, 0])
        for unit, ratio in _cost_ratios(arm[seed], other[seed], needed, base).items():
            found.ratios.setdefault(unit, {})[seed] = ratio
    return found


def _cost_ratios(arm: Record, other: Record, needed: float, base: float) -> dict[str, float]:
    """Return the cost of `base` steps of the other over `needed` steps of the arm, by unit."""
    found = {"steps": base / needed}
    for unit in ("seconds", "flops"):
        fast, slow = getattr(arm, unit), getattr(other, unit)
        spent, saved = _cost(arm, unit, needed), _cost(other, unit, base)
        if spent and saved:
            found[unit] = saved / spent
            if "tokenizer" in fast and "tokenizer" in slow:
                whole = (saved + slow["tokenizer"], spent + fast["tokenizer"])
                found[f"{unit} + warm-up"] = whole[0] / whole[1]
    return found


def _cost(record: Record, unit: str, steps: float) -> float:
    """Return the cost of the generator's first steps, joint and then alone; 0 if it is unknown."""
    known, total = getattr(record, unit), 0.0
    scratch = record.settings.get("generator.start") == "scratch"
    for stage in ("generator",) if scratch else ("joint", "generator"):
        length = record.settings.get(f"{stage}.steps", 0)
        taken = min(steps, length)
        if taken > 0:
            if not known.get(stage):
                return 0.0
            total += known[stage] * taken / length
            steps -= taken
    return total


def _compared(
    advantages: dict[int, float], evidence: str, level: float, effect: Effect | None = None
) -> Comparison:
    values = list(advantages.values())
    usual, strict = interval(values), interval(values, level)
    supported = usual.low is not None and usual.low > 0
    contradicted = strict.high is not None and strict.high < 0
    return Comparison(advantages, evidence, supported, contradicted, effect)


def _spread_in_words(effect: Effect, p: float, form: str) -> str:
    """Return the interval, p-value and values by seed of an effect as text."""
    low, high = effect.interval.low, effect.interval.high
    text = "no interval: one seed, or equal in all"
    if low is not None and high is not None:
        text = f"{LEVEL:.0%} interval {low:{form}} to {high:{form}}"
    text += "" if math.isnan(p) else f", p {p:.2g}"
    if len(effect.per_seed) < 2:
        return f"({text})"
    seeds = ", ".join(f"seed {seed} {value:{form}}" for seed, value in effect.per_seed.items())
    return f"({text}); {seeds}"


def _geometric(logs: dict[int, float]) -> Interval:
    """Return the geometric mean and interval of ratios, given their logarithms by seed."""
    found = interval(list(logs.values()))
    low, high = (None if x is None else math.exp(x) for x in (found.low, found.high))
    return Interval(math.exp(found.mean), low, high)


def _left_out(reasons: dict[int, str]) -> str:
    return "".join(f"; seed {seed} left out: {reason}" for seed, reason in reasons.items())


def _sooner(
    prediction: PredictionConfig, arm: Runs, others: Runs, other: str, level: float
) -> Comparison:
    speed = measure_speed(arm, others, prediction.value)
    about = f"{prediction.arm} to the last {prediction.value} of {other}"
    reasons = _left_out(speed.left_out)
    ratios = speed.ratios.get("steps", {})
    if speed.missed:  # some have no step to compare, so all are compared by their best values
        far = ", ".join(f"{gap:.3g} above in seed {seed}" for seed, gap in speed.missed.items())
        evidence = f"{about}: reached by {len(ratios)} of {len(speed.margins)} seeds ({far})"
        found = _compared(speed.margins, f"{evidence}{reasons}", level)
        return replace(found, supported=False)
    if not ratios:
        return _compared({}, f"{about}: nothing to compare{reasons}", level)
    logs = {seed: math.log(ratio) for seed, ratio in ratios.items()}
    title = f"steps of {other} over those of {prediction.arm}, to the last {prediction.value}"
    effect = Effect(title, ratios, _geometric(logs), limit=1.0, above=True)
    spread = _spread_in_words(effect, p_value(list(logs.values())), ".2f")
    evidence = f"{about}: {effect.interval.mean:.2f}x fewer steps {spread}"
    return _compared(logs, f"{evidence}{reasons}", level, effect)


def _ordered(
    prediction: PredictionConfig, arm: Runs, others: Runs, other: str, level: float
) -> Comparison:
    name = prediction.value
    differences: dict[int, float] = {}
    ends: list[tuple[float, float]] = []
    left_out: dict[int, str] = {}
    for seed in sorted(arm.keys() & others.keys()):
        ours, theirs = end_value(arm[seed], name), end_value(others[seed], name)
        metrics = [_without_run(run[seed].metric(name)) for run in (others, arm)]
        if reason := unlike(arm[seed], others[seed]):
            left_out[seed] = reason
        elif ours is None or theirs is None:
            left_out[seed] = f"{name} was not measured, or is not finite"
        elif metrics[0] is not None and metrics[1] is not None:
            try:
                differences[seed] = difference(metrics[0], metrics[1])
                ends.append((ours, theirs))
            except ValueError as error:
                left_out[seed] = str(error)
        elif curve_protocol(arm[seed], name) != curve_protocol(others[seed], name):
            left_out[seed] = "curves of different protocols"
        else:
            differences[seed] = ours - theirs
            ends.append((ours, theirs))
    if not differences:
        evidence = f"{name} of {prediction.arm} and {other}: nothing to compare"
        return _compared({}, f"{evidence}{_left_out(left_out)}", level)
    above = prediction.kind == "higher"
    title = f"{name}: {prediction.arm} - {other}"
    effect = Effect(title, differences, interval(list(differences.values())), 0.0, above)
    means = [fmean(values) for values in zip(*ends, strict=True)]
    places = decimals(differences.values())
    spread = _spread_in_words(effect, p_value(list(differences.values())), f"+.{places}f")
    evidence = (
        f"{name}: {prediction.arm} {means[0]:.{places}f}, {other} {means[1]:.{places}f}, "
        f"difference {effect.interval.mean:+.{places}f} {spread}{_left_out(left_out)}"
    )
    advantages = {seed: value if above else -value for seed, value in differences.items()}
    return _compared(advantages, evidence, level, effect)


def _fall(prediction: PredictionConfig, arm: Runs) -> Comparison:
    """Compare the last value of a positive quantity with a fraction of the first."""
    shares = {}
    for seed, record in sorted(arm.items()):
        values = [value for _, value in record.points(prediction.value)]
        if values and values[0] > 0 and values[-1] > 0:
            shares[seed] = math.log(values[-1] / values[0])
    about = f"{prediction.value} of {prediction.arm}"
    if not shares:
        return _compared({}, f"{about}: not logged, or not positive", LEVEL)
    advantages = {seed: math.log(prediction.to) - value for seed, value in shares.items()}
    effect = Effect(
        f"{about}: last over first value",
        {seed: math.exp(value) for seed, value in shares.items()},
        _geometric(shares),
        prediction.to,
        above=False,
    )
    spread = _spread_in_words(effect, p_value(list(advantages.values())), ".3g")
    evidence = (
        f"{about}: {effect.interval.mean:.3g} times its first value, predicted below "
        f"{prediction.to:g} {spread}"
    )
    return _compared(advantages, evidence, LEVEL, effect)
