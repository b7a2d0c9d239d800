"""How much sooner a run's curve falls to where another one ends, for runs of the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gear.runs.comparison import steps_to
from gear.runs.study_records import Record, Runs, unlike


@dataclass(frozen=True)
class SpeedUp:
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


def measure_speed_up(arm: Runs, other: Runs, quantity: str) -> SpeedUp:
    """Return how much sooner an arm's curve falls to the last value of another's, seed by seed.

    A curve is linear between its points. The other's cost is counted up to the first step at which
    it is as good as at its end.
    """
    found = SpeedUp({}, {}, {})
    for seed in sorted(arm.keys() & other.keys()):
        slow, fast = (np.array(one[seed].points(quantity)) for one in (other, arm))
        reason = unlike(arm[seed], other[seed])
        if not len(slow) or not len(fast):
            reason = "no curve"
        elif arm[seed].protocol_of_curve(quantity) != other[seed].protocol_of_curve(quantity):
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
