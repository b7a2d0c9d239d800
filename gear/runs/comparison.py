"""Compare runs: arms over seeds, differences under one protocol, and speed of convergence."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

import numpy as np

from gear.core.text import one_line
from gear.evaluation.metric_protocol import OF_A_RUN, Metric, difference

Rows = list[dict[str, float]]
SEED = "run.seed"
RESAMPLES = 4000
SAMPLING = {  # keys of a protocol that are settings of sampling, and their names
    "guidance": "guidance",
    "interval": "guidance over",
    "temperature": "temperature",
    "top_k": "top-k",
    "top_p": "top-p",
}
RECIPE = "joint.recipe"
LABEL = 80  # characters of an arm's name
COVER = 0.95  # confidence level of the bootstrap interval


@dataclass(frozen=True)
class Run:
    """A measured run.

    settings: Flat: `run.seed`, `joint.recipe`, ...
    code: Hash of the code that made it.
    records: `{"value": ..., "protocol": ...}` by metric.
    health: Usage and perplexity of the codebook, which have no protocol.
    conditions: What else must be equal for a comparison: the data, the sample size of the curve.
    curves: Logged rows by stage.
    seconds: Seconds by stage; None if unknown.
    """

    name: str
    commit: str
    settings: dict[str, Any]
    code: str
    records: dict[str, dict[str, Any]]
    health: dict[str, float] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Rows] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)

    @property
    def seed(self) -> Any:
        return self.settings.get(SEED)

    def arm(self) -> str:
        """Return a key that is equal for runs that differ only in the seed."""
        settings = {name: value for name, value in self.settings.items() if name != SEED}
        return json.dumps([self.code, settings, self.sampling()], sort_keys=True)

    def sampling(self) -> dict[str, Any]:
        """Return the settings that the measured samples were drawn with, as their protocol says.

        Empty if no metric of samples is recorded.
        """
        protocols = (record["protocol"] for name, record in self.records.items() if "@" not in name)
        drawn: dict[str, Any] = next(
            (protocol for protocol in protocols if "guidance" in protocol), {}
        )
        return {key: drawn[key] for key in SAMPLING if key in drawn}

    def values(self) -> dict[str, float]:
        """Return the values of all metrics and of codebook health, by name."""
        return {name: record["value"] for name, record in self.records.items()} | self.health


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in the seed."""

    label: str
    runs: list[Run]

    def values(self, metric: str) -> list[float]:
        return [run.values()[metric] for run in self.runs if metric in run.values()]

    def curve(self, stage: str, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps (S,) that all seeds logged, and the quantity there, (seeds, S)."""
        by_step = [
            {row["step"]: row[quantity] for row in run.curves.get(stage, []) if quantity in row}
            for run in self.runs
        ]
        steps = sorted(set.intersection(*(set(values) for values in by_step)))
        curves = [[values[step] for step in steps] for values in by_step]
        return np.array(steps, dtype=float), np.array(curves, dtype=float)

    def seconds(self, stage: str) -> float | None:
        """Return the mean over seeds; None if one is unknown."""
        known = [run.seconds.get(stage) for run in self.runs]
        seconds = [value for value in known if value is not None]
        return mean(seconds) if seconds and len(seconds) == len(known) else None


def group(runs: list[Run]) -> list[Arm]:
    """Return arms in the order of their first runs, named by the settings in which they differ.

    Arms that differ in their sampling are named by it: `gear (guidance 2, top-k 100)`. Names are
    unique.

    Raises:
        ValueError: if a run is given twice.
    """
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.arm(), []).append(run)
    for same in arms.values():
        seeds: dict[Any, str] = {}
        for run in same:
            if run.seed in seeds:
                raise ValueError(
                    f"{seeds[run.seed]} and {run.name} are one run: "
                    "the same settings, code and seed"
                )
            seeds[run.seed] = run.name
    firsts = [same[0] for same in arms.values()]
    labels = _labels(firsts)
    labels = [
        label if labels.count(label) == 1 else f"{label}: {one_line(first.name, LABEL)}"
        for label, first in zip(labels, firsts, strict=True)
    ]
    return [Arm(label, same) for label, same in zip(labels, arms.values(), strict=True)]


def differing(settings: list[dict[str, Any]], but: Iterable[str] = (SEED,)) -> list[str]:
    """Return the names of the settings in which some runs differ, except those in `but`."""
    names = sorted({name for values in settings for name in values}.difference(but))

    def count(name: str) -> int:
        return len({json.dumps(values.get(name), sort_keys=True) for values in settings})

    return [name for name in names if count(name) > 1]


def _labels(runs: list[Run]) -> list[str]:
    """Return the names of arms, given the first run of each."""
    keys = differing([run.settings for run in runs])
    drawn = differing_sampling(runs)
    if not drawn:
        return [_label(run, keys) for run in runs]
    others = [key for key in keys if not key.startswith("sample.")]
    bases = [
        _label(run, others) if others else str(run.settings.get(RECIPE, run.name)) for run in runs
    ]
    return [
        one_line(f"{base} ({sampling_in_words(run, drawn)})", LABEL)
        for base, run in zip(bases, runs, strict=True)
    ]


def _label(run: Run, keys: list[str]) -> str:
    if not 0 < len(keys) <= 2:
        return one_line(run.name, LABEL)
    names = [key.rsplit(".", 1)[-1] for key in keys]
    if len(set(names)) < len(names):  # joint.steps and generator.steps
        names = keys
    values = (f"{name} {run.settings.get(key, '-')}" for name, key in zip(names, keys, strict=True))
    return one_line(", ".join(values), LABEL)


def differing_sampling(runs: list[Run]) -> list[str]:
    """Return the settings of sampling in which the measured samples of some runs differ."""
    drawn = [run.sampling() for run in runs]
    return [key for key in SAMPLING if any(one.get(key) != drawn[0].get(key) for one in drawn)]


def sampling_in_words(run: Run, keys: Iterable[str]) -> str:
    """Return sampling settings of a run as text: `guidance 2, top-k 100`."""
    drawn = run.sampling()
    return ", ".join(f"{SAMPLING[key]} {_in_words(drawn.get(key, '-'))}" for key in keys)


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_in_words(end) for end in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_protocols(runs: list[Run], *, across_sampling: bool = False) -> None:
    """Check that all runs were measured under the same protocols; seeds may differ.

    across_sampling: The settings of sampling (`SAMPLING`) may differ as well.

    Raises:
        ValueError: if not; the message names the metric, the runs and how they differ, and says
            if only settings of sampling differ.
    """
    try:
        _check(runs, OF_A_RUN | SAMPLING.keys() if across_sampling else OF_A_RUN)
    except ValueError as error:
        if across_sampling or not _differ_in_sampling_only(runs):
            raise
        raise ValueError(
            f"{error}. Only settings of sampling differ: `--across sample` compares such runs"
        ) from None


def _differ_in_sampling_only(runs: list[Run]) -> bool:
    try:
        _check(runs, OF_A_RUN | SAMPLING.keys())
    except ValueError:
        return False
    return True


def _check(runs: list[Run], free: Set[str]) -> None:
    """Raise `ValueError` if protocols differ in anything but the keys `free`.

    Each metric of a run is compared with that of the first run that has it.
    """
    first: dict[str, tuple[Run, Metric]] = {}
    for run in runs:
        for name, metric in _metrics(run, free).items():
            earlier, reference = first.setdefault(name, (run, metric))
            try:
                difference(reference, metric)
            except ValueError as error:
                raise ValueError(f"{name} of {earlier.name} and {run.name}: {error}") from None


def _metrics(run: Run, free: Set[str]) -> dict[str, Metric]:
    """Return a run's metrics by name, and its conditions as one, without the keys `free`."""
    found = {"conditions": Metric(0, run.conditions)}
    for name, record in run.records.items():
        if name != "fd_untrained":
            protocol = {k: v for k, v in record["protocol"].items() if k not in free}
            found[name] = Metric(record["value"], protocol)
    return found


def metric_names(arms: list[Arm]) -> list[str]:
    """Return the metrics of any run, in the order in which they were recorded."""
    return list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.values()))


def mean_and_std(values: list[float]) -> str:
    """Return mean and standard deviation as text; `-` if there are no values.

    Both have the decimals that give the deviation two significant digits.

    >>> mean_and_std([1.0, 2.0]), mean_and_std([148.851, 129.04]), mean_and_std([1.0, 1.0])
    ('1.50 ± 0.71', '139 ± 14', '1 ± 0')
    """
    if not values:
        return "-"
    deviation = stdev(values) if len(values) > 1 else 0.0
    if not deviation:
        return f"{mean(values):.5g}{' ± 0' if len(values) > 1 else ''}"
    places = decimals([deviation], digits=2)
    return f"{mean(values):.{places}f} ± {deviation:.{places}f}"


def decimals(values: Collection[float], digits: int = 3) -> int:
    """Return how many decimals give the largest of some values `digits` significant digits.

    >>> decimals([-13.5, 4.67]), decimals([0.0123]), decimals([1234.0]), decimals([0.0])
    (1, 4, 0, 2)
    """
    largest = max(map(abs, values), default=0.0)
    return max(0, digits - 1 - (math.floor(math.log10(largest)) if largest else 0))


@dataclass(frozen=True)
class Speed:
    """How soon an arm reaches the target, compared with the baseline.

    steps: Steps of the arm to the target; None if it is not reached.
    ratio: Steps of the baseline over those of the arm.
    interval: Interval of the ratio; None if an arm has fewer than two seeds. Resamples that do not
        reach the target count as 0.
    """

    target: float
    steps: float | None
    ratio: float | None
    interval: tuple[float, float] | None


def speed(
    baseline: tuple[np.ndarray, np.ndarray], arm: tuple[np.ndarray, np.ndarray]
) -> Speed | None:
    """Return how much sooner an arm's mean curve falls to the last value of the baseline's.

    Each bootstrap resample draws seeds of both arms, independently and with replacement, and uses
    its own last value of the baseline. The interval is between quantiles of the ratios (percentile
    bootstrap, Efron 1979).

    Args:
        baseline: Steps (S,) and values (seeds, S).
        arm: The same of the arm.

    Returns:
        None if there is no curve, or the baseline's ends no lower than it began.
    """
    if not len(baseline[0]) or not len(arm[0]):
        return None
    mean = baseline[1].mean(0)
    if mean[-1] >= mean[0]:
        return None
    target, ratio, steps = _ratio(baseline[0], mean, arm[0], arm[1].mean(0))
    interval = None
    if len(baseline[1]) > 1 and len(arm[1]) > 1:
        random = np.random.default_rng(0)
        ratios = []
        for _ in range(RESAMPLES):
            slow = _resample(baseline[1], random)
            fast = _resample(arm[1], random)
            ratios.append(_ratio(baseline[0], slow, arm[0], fast)[1] or 0.0)
        low, high = np.quantile(ratios, [(1 - COVER) / 2, (1 + COVER) / 2], method="nearest")
        interval = (float(low), float(high))
    return Speed(target, steps, ratio, interval)


def _resample(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    result: np.ndarray = values[random.integers(0, len(values), len(values))].mean(0)
    return result


def _ratio(
    base_steps: np.ndarray, base: np.ndarray, arm_steps: np.ndarray, arm: np.ndarray
) -> tuple[float, float | None, float | None]:
    """Return the target, the ratio of the baseline's steps to the arm's, and the arm's steps."""
    target = float(base[-1])
    slow = steps_to(base_steps, base, target)
    fast = steps_to(arm_steps, arm, target)
    if fast is None or slow is None:
        return target, None, fast
    return target, slow / fast if fast else float("inf"), fast


def steps_to(steps: np.ndarray, values: np.ndarray, target: float) -> float | None:
    """Return the step at which a curve first falls to `target`; None if it never does.

    steps, values: the points of the curve, (S,), which is linear between them.

    >>> steps_to(np.array([0.0, 10.0]), np.array([4.0, 2.0]), 3.0)
    5.0
    """
    below = np.flatnonzero(values <= target)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0:
        return float(steps[0])
    share = (values[i - 1] - target) / (values[i - 1] - values[i])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def quantities(arms: Iterable[Arm], stage: str) -> set[str]:
    """Return the names of all quantities that any run logged in a stage."""
    return {
        key for arm in arms for run in arm.runs for row in run.curves.get(stage, []) for key in row
    } - {"step"}
