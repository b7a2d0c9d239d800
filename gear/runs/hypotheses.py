"""Test the predictions of a study's hypotheses on its records.

Runs of two arms with the same seed start from the same data, warm tokenizer and batches, so they
are compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from gear.evaluation.metric_protocol import OF_A_RUN, Metric, difference
from gear.runs.comparison import decimals
from gear.runs.intervals import LEVEL, Interval, geometric_interval, interval, p_value
from gear.runs.paired_speed import measure_speed_up
from gear.runs.study_file import HypothesisConfig, PredictionConfig
from gear.runs.study_records import Record, Runs, by_arm_and_seed, unlike

SUPPORTED, CONTRADICTED, OPEN = "supported", "contradicted", "open"


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


def _without_run(metric: Metric | None) -> Metric | None:
    """Return a metric without what its protocol has of its run alone, such as a threshold."""
    if metric is None:
        return None
    return Metric(metric.value, {k: v for k, v in metric.protocol.items() if k not in OF_A_RUN})


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


def _left_out(reasons: dict[int, str]) -> str:
    return "".join(f"; seed {seed} left out: {reason}" for seed, reason in reasons.items())


def _sooner(
    prediction: PredictionConfig, arm: Runs, others: Runs, other: str, level: float
) -> Comparison:
    found = measure_speed_up(arm, others, prediction.value)
    about = f"{prediction.arm} to the last {prediction.value} of {other}"
    reasons = _left_out(found.left_out)
    ratios = found.ratios.get("steps", {})
    if found.missed:  # some have no step to compare, so all are compared by their best values
        far = ", ".join(f"{gap:.3g} above in seed {seed}" for seed, gap in found.missed.items())
        evidence = f"{about}: reached by {len(ratios)} of {len(found.margins)} seeds ({far})"
        return replace(_compared(found.margins, f"{evidence}{reasons}", level), supported=False)
    if not ratios:
        return _compared({}, f"{about}: nothing to compare{reasons}", level)
    logs = {seed: math.log(ratio) for seed, ratio in ratios.items()}
    title = f"steps of {other} over those of {prediction.arm}, to the last {prediction.value}"
    effect = Effect(title, ratios, geometric_interval(logs), limit=1.0, above=True)
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
        ours, theirs = arm[seed].last_value(name), others[seed].last_value(name)
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
        elif arm[seed].protocol_of_curve(name) != others[seed].protocol_of_curve(name):
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
        geometric_interval(shares),
        prediction.to,
        above=False,
    )
    spread = _spread_in_words(effect, p_value(list(advantages.values())), ".3g")
    evidence = (
        f"{about}: {effect.interval.mean:.3g} times its first value, predicted below "
        f"{prediction.to:g} {spread}"
    )
    return _compared(advantages, evidence, LEVEL, effect)
