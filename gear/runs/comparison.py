"""Runs side by side: arms of seeds, differences under one protocol, and how much sooner one reaches what another ends with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np

from gear.evaluation.metric_protocol import Metric, difference

Rows = list[dict[str, float]]

SEED = "run.seed"

RESAMPLES = 4000

COVER = 0.95  # of the bootstrap interval


@dataclass(frozen=True)
class Run:
    """One measured run: flat settings (`run.seed`, `joint.recipe`, ...), metric records, logged rows and seconds by stage."""

    name: str
    commit: str
    settings: dict[str, Any]
    code: str  # hash of the code that made it
    records: dict[str, dict[str, Any]]  # {"value": …, "protocol": …}
    health: dict[str, float] = field(
        default_factory=dict
    )  # codebook headline, without a protocol of its own
    conditions: dict[str, Any] = field(
        default_factory=dict
    )  # what else has to be equal: data, the curve's N
    curves: dict[str, Rows] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)

    @property
    def seed(self) -> Any:
        return self.settings.get(SEED)

    def arm(self) -> str:
        """The same for runs that differ in the seed alone."""
        return json.dumps(
            [self.code, {k: v for k, v in self.settings.items() if k != SEED}], sort_keys=True
        )

    def values(self) -> dict[str, float]:
        """Every metric's value."""
        return {name: record["value"] for name, record in self.records.items()} | self.health


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed alone."""

    label: str
    runs: list[Run]

    def values(self, metric: str) -> list[float]:
        return [run.values()[metric] for run in self.runs if metric in run.values()]

    def curve(self, stage: str, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps (S) that all seeds logged, and the quantity there, (seeds, S)."""
        lines = [
            {row["step"]: row[quantity] for row in run.curves.get(stage, []) if quantity in row}
            for run in self.runs
        ]
        steps = sorted(set.intersection(*(set(line) for line in lines)))
        return np.array(steps, dtype=float), np.array(
            [[line[s] for s in steps] for line in lines], dtype=float
        )

    def seconds(self, stage: str) -> float | None:
        """Mean over seeds; None where one is unknown."""
        known = [run.seconds.get(stage) for run in self.runs]
        return None if None in known or not known else mean(s for s in known if s is not None)


def group(runs: list[Run]) -> list[Arm]:
    """Arms in the order of their first runs, named by the settings in which they differ. Raises ValueError on a run given twice."""
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.arm(), []).append(run)
    for same in arms.values():
        seeds: dict[Any, str] = {}
        for run in same:
            if run.seed in seeds:
                raise ValueError(
                    f"{seeds[run.seed]} and {run.name} are one run: the same settings, code and seed"
                )
            seeds[run.seed] = run.name
    keys = differing([same[0].settings for same in arms.values()])
    return [Arm(_label(same, keys), same) for same in arms.values()]


def differing(settings: list[dict[str, Any]]) -> list[str]:
    """Names of the settings, the seed apart, in which some differ."""
    names = sorted({k for one in settings for k in one} - {SEED})
    return [
        k for k in names if len({json.dumps(one.get(k), sort_keys=True) for one in settings}) > 1
    ]


def _label(runs: list[Run], keys: list[str]) -> str:
    if not 0 < len(keys) <= 2:
        return runs[0].name
    return ", ".join(f"{key.rsplit('.', 1)[-1]} {runs[0].settings.get(key, '-')}" for key in keys)


def check_protocols(runs: list[Run]) -> None:
    """Raises ValueError, naming metric, runs and how they differ, unless all were measured alike. Seeds may differ."""
    first = runs[0]
    for other in runs[1:]:
        pairs = [("conditions", Metric(0, first.conditions), Metric(0, other.conditions))]
        pairs += [
            (name, _metric(first, name), _metric(other, name))
            for name in first.records
            if name in other.records
        ]
        for name, one, two in pairs:
            try:
                difference(one, two)
            except ValueError as error:
                raise ValueError(f"{name} of {first.name} and {other.name}: {error}") from None


def _metric(run: Run, name: str) -> Metric:
    record = run.records[name]
    return Metric(record["value"], {k: v for k, v in record["protocol"].items() if k != "seeds"})


def metric_names(arms: list[Arm]) -> list[str]:
    """Metrics of any run, in the order in which they were recorded."""
    return list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.values()))


def mean_and_std(values: list[float]) -> str:
    """Mean and standard deviation as text; `-` for none."""
    if not values:
        return "-"
    return f"{mean(values):.5g}" + (
        f" ± {float(f'{stdev(values):.2g}'):g}" if len(values) > 1 else ""
    )


@dataclass(frozen=True)
class Speed:
    """Steps of an arm to the target, steps of the baseline over them, and an interval of that ratio."""

    target: float
    steps: float | None  # None: not reached
    ratio: float | None
    interval: (
        tuple[float, float] | None
    )  # None: fewer than two seeds in an arm; a bound of 0: not reached in some resamples


def speed(
    baseline: tuple[np.ndarray, np.ndarray], arm: tuple[np.ndarray, np.ndarray]
) -> Speed | None:
    """How much sooner an arm's mean curve falls to what the baseline's ends with; None where there is no curve.

    Curves are (steps, values by seed). Each resample draws seeds of both arms, independently and with replacement, and takes the
    baseline's end anew; the interval is between quantiles of their ratios (percentile bootstrap, Efron 1979).
    """
    if not len(baseline[0]) or not len(arm[0]):
        return None
    target, ratio, steps = _ratio(baseline[0], baseline[1].mean(0), arm[0], arm[1].mean(0))
    interval = None
    if len(baseline[1]) > 1 and len(arm[1]) > 1:
        random = np.random.default_rng(0)
        ratios = [
            _ratio(baseline[0], _resample(baseline[1], random), arm[0], _resample(arm[1], random))[
                1
            ]
            or 0.0
            for _ in range(RESAMPLES)
        ]
        low, high = np.quantile(ratios, [(1 - COVER) / 2, (1 + COVER) / 2], method="nearest")
        interval = (float(low), float(high))
    return Speed(target, steps, ratio, interval)


def _resample(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    result: np.ndarray = values[random.integers(0, len(values), len(values))].mean(0)
    return result


def _ratio(
    base_steps: np.ndarray, base: np.ndarray, arm_steps: np.ndarray, arm: np.ndarray
) -> tuple[float, float | None, float | None]:
    target = float(base[-1])
    slow, fast = steps_to(base_steps, base, target), steps_to(arm_steps, arm, target)
    return (
        target,
        None if fast is None or slow is None else slow / fast if fast else float("inf"),
        fast,
    )


def steps_to(steps: np.ndarray, values: np.ndarray, target: float) -> float | None:
    """The step at which a curve first falls to `target`, on the straight line between two points; None where it never does."""
    below = np.flatnonzero(values <= target)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (values[i - 1] - target) / (values[i - 1] - values[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def quantities(arms: Iterable[Arm], stage: str) -> set[str]:
    """What any run logged in a stage."""
    return {
        key for arm in arms for run in arm.runs for row in run.curves.get(stage, []) for key in row
    } - {"step"}
