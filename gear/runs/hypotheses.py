"""Whether the records of a study bear out what its hypotheses predict.

Runs of two arms with the same seed start from the same data, warm tokenizer and batches, so they
are compared in pairs. With few seeds a bootstrap's interval is too narrow (three differences have
ten distinct resamples), so intervals are Student's t of the paired differences, and of the
logarithm where ratios are compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy import stats

from gear.evaluation.metric_protocol import difference
from gear.runs.comparison import steps_to
from gear.runs.study_file import HypothesisConfig, PredictionConfig
from gear.runs.study_records import Record

LEVEL = 0.95  # of every interval
SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "open"


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its interval; `low` and `high` are None with fewer than two seeds."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Finding:
    """How one prediction came out.

    verdict: `supported`, `contradicted` or `open`.
    evidence: A sentence with the numbers.
    per_seed: What was compared, by seed: a difference, or a ratio.
    """

    prediction: PredictionConfig
    verdict: str
    evidence: str
    per_seed: dict[int, float]


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values and Student's t interval at `LEVEL`.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> round(found.low, 3), found.mean, round(found.high, 3)
    (-0.484, 2.0, 4.484)
    """
    if len(values) < 2:
        return Interval(values[0] if values else math.nan, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return Interval(mean(values), mean(values) - half, mean(values) + half)


def judge(hypothesis: HypothesisConfig, records: Sequence[Record]) -> tuple[str, list[Finding]]:
    """Return the verdict on a hypothesis and how each prediction came out.

    It is supported if all predictions are, and contradicted if one of them is.
    """
    findings = [examine(prediction, records) for prediction in hypothesis.predictions]
    verdicts = {finding.verdict for finding in findings}
    if CONTRADICTED in verdicts:
        return CONTRADICTED, findings
    return (SUPPORTED if verdicts == {SUPPORTED} else OPEN), findings


def examine(prediction: PredictionConfig, records: Sequence[Record]) -> Finding:
    """Return how a prediction came out on the records at hand."""
    by_arm = by_arm_and_seed(records)
    absent = [arm for arm in (prediction.arm, *prediction.than) if arm not in by_arm]
    if absent:
        return Finding(prediction, OPEN, f"not run: {', '.join(absent)}", {})
    if prediction.kind == "falls":
        return _falls(prediction, by_arm[prediction.arm])
    if prediction.kind == "sooner":
        return _sooner(prediction, by_arm)
    return _ordered(prediction, by_arm)


def by_arm_and_seed(records: Sequence[Record]) -> dict[str, dict[int, Record]]:
    """Return records by arm, then by seed."""
    found: dict[str, dict[int, Record]] = {}
    for record in records:
        found.setdefault(record.arm, {})[record.seed] = record
    return found


def end_value(record: Record, name: str) -> float | None:
    """Return a metric, else the last value of a quantity of the curve; None if there is neither."""
    metric = record.metric(name)
    if metric is not None:
        return metric.value
    points = record.points(name)
    return points[-1][1] if points else None


@dataclass(frozen=True)
class Speed:
    """How much sooner an arm reaches the last value of another, by seed and unit of cost.

    ratios: The other's cost over that of the arm, by unit, then seed; a seed whose arm never
        reaches the value is absent. `steps + warm-up` and the like count the warm-up for both.
    missed: Seeds whose arm does not reach the value.
    """

    ratios: dict[str, dict[int, float]]
    missed: tuple[int, ...]


def measure_speed(arm: dict[int, Record], other: dict[int, Record], quantity: str) -> Speed:
    """Return how much sooner an arm's curve falls to the last value of another's, seed by seed.

    Between two points a curve is a straight line. The other's own cost is that of its first step at
    which it is as good as at its end.
    """
    ratios: dict[str, dict[int, float]] = {}
    missed = []
    for seed in sorted(arm.keys() & other.keys()):
        slow, fast = (np.array(one[seed].points(quantity)) for one in (other, arm))
        if not len(slow) or not len(fast):
            continue
        target = float(slow[-1, 1])
        needed = steps_to(fast[:, 0], fast[:, 1], target)
        if not needed:
            missed.append(seed)
            continue
        base = steps_to(slow[:, 0], slow[:, 1], target) or float(slow[-1, 0])
        for unit, ratio in _cost_ratios(arm[seed], other[seed], needed, base).items():
            ratios.setdefault(unit, {})[seed] = ratio
    return Speed(ratios, tuple(missed))


def _cost_ratios(arm: Record, other: Record, needed: float, base: float) -> dict[str, float]:
    """Return the cost of `base` steps of another over that of `needed` steps, by unit."""
    found = {"steps": base / needed}
    for unit in ("seconds", "flops"):
        fast, slow = getattr(arm, unit), getattr(other, unit)
        if "joint" in fast and "joint" in slow:
            costs = [
                steps * one["joint"] / record.settings["joint.steps"]
                for steps, one, record in ((base, slow, other), (needed, fast, arm))
            ]
            found[unit] = costs[0] / costs[1]
            if "tokenizer" in fast and "tokenizer" in slow:
                whole = [costs[0] + slow["tokenizer"], costs[1] + fast["tokenizer"]]
                found[f"{unit} + warm-up"] = whole[0] / whole[1]
    return found


def best_arm(
    names: Sequence[str], by_arm: dict[str, dict[int, Record]], value: str, *, highest: bool
) -> str:
    """Return the arm whose mean value at the end is the best."""

    def at_end(name: str) -> float:
        values = [end_value(record, value) for record in by_arm[name].values()]
        known = [one for one in values if one is not None]
        if not known:
            return math.inf
        return -mean(known) if highest else mean(known)

    return min(names, key=at_end)


def _verdict(low: float | None, high: float | None, neutral: float) -> str:
    """Return whether an interval lies wholly above `neutral`, wholly below, or holds it."""
    if low is None or high is None:
        return OPEN
    return SUPPORTED if low > neutral else CONTRADICTED if high < neutral else OPEN


def _bounds(found: Interval, form: str) -> str:
    if found.low is None or found.high is None:
        return "no interval: one seed"
    return f"{LEVEL:.0%} interval {found.low:{form}} to {found.high:{form}}"


def _sooner(prediction: PredictionConfig, by_arm: dict[str, dict[int, Record]]) -> Finding:
    other = best_arm(prediction.than, by_arm, prediction.value, highest=False)
    speed = measure_speed(by_arm[prediction.arm], by_arm[other], prediction.value)
    ratios = speed.ratios.get("steps", {})
    count = len(ratios) + len(speed.missed)
    about = f"{prediction.arm} to the last {prediction.value} of {other}"
    if not count:
        return Finding(prediction, OPEN, f"{about}: no curve", {})
    if speed.missed:
        reached = f"{about}: reached by {len(ratios)} of {count} seeds"
        verdict = OPEN if ratios or count < 2 else CONTRADICTED
        return Finding(prediction, verdict, reached, ratios)
    logs = interval([math.log(ratio) for ratio in ratios.values()])
    found = Interval(
        math.exp(logs.mean),
        None if logs.low is None else math.exp(logs.low),
        None if logs.high is None else math.exp(logs.high),
    )
    evidence = f"{about}: {found.mean:.2f}x fewer steps ({_bounds(found, '.2f')})"
    return Finding(prediction, _verdict(found.low, found.high, 1.0), evidence, ratios)


def _ordered(prediction: PredictionConfig, by_arm: dict[str, dict[int, Record]]) -> Finding:
    name, highest = prediction.value, prediction.kind == "higher"
    other = best_arm(prediction.than, by_arm, name, highest=highest)
    ours, theirs = by_arm[prediction.arm], by_arm[other]
    differences: dict[int, float] = {}
    pairs: list[tuple[float, float]] = []
    for seed in sorted(ours.keys() & theirs.keys()):
        pair = [record.metric(name) for record in (theirs[seed], ours[seed])]
        ends = [end_value(record, name) for record in (theirs[seed], ours[seed])]
        if ends[0] is None or ends[1] is None:
            continue
        pairs.append((ends[1], ends[0]))
        if pair[0] is not None and pair[1] is not None:
            try:
                differences[seed] = difference(pair[0], pair[1])
            except ValueError as error:
                return Finding(prediction, OPEN, f"{name}: {error}", {})
        else:
            differences[seed] = ends[1] - ends[0]
    if not differences:
        return Finding(prediction, OPEN, f"{name}: not measured in both arms", {})
    found = interval(list(differences.values()))
    means = [mean(values) for values in zip(*pairs, strict=True)]
    verdict = (
        _verdict(found.low, found.high, 0.0)
        if highest
        else _verdict(_minus(found.high), _minus(found.low), 0.0)
    )
    evidence = (
        f"{name}: {prediction.arm} {means[0]:.4g}, {other} {means[1]:.4g}, difference "
        f"{found.mean:+.3g} ({_bounds(found, '+.3g')})"
    )
    return Finding(prediction, verdict, evidence, differences)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _falls(prediction: PredictionConfig, arm: dict[int, Record]) -> Finding:
    """Return whether the last value of a positive quantity is below a share of the first."""
    shares = {}
    for seed, record in arm.items():
        values = [value for _, value in record.points(prediction.value)]
        if values and values[0] > 0 and values[-1] > 0:
            shares[seed] = values[-1] / values[0]
    if not shares:
        return Finding(prediction, OPEN, f"{prediction.value}: not logged", {})
    logs = interval([math.log(share) for share in shares.values()])
    verdict = _verdict(_minus(logs.high), _minus(logs.low), -math.log(prediction.to))
    found = Interval(
        math.exp(logs.mean),
        None if logs.low is None else math.exp(logs.low),
        None if logs.high is None else math.exp(logs.high),
    )
    evidence = (
        f"{prediction.value} of {prediction.arm}: {found.mean:.3g} times its first value "
        f"({_bounds(found, '.3g')}); predicted below {prediction.to:g}"
    )
    return Finding(prediction, verdict, evidence, shares)
