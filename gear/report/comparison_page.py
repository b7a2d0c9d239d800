"""Compare arms (runs that differ only in the seed) as text tables and one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from markupsafe import Markup

from gear.core.text import printable
from gear.report.comparison_pictures import (
    RunPictures,
    equal_names,
    missing_lines,
    reconstruction_section,
    sample_sections,
)
from gear.report.curves import CURVES, Curve
from gear.report.line_chart import line_chart
from gear.report.page import render_template
from gear.runs.comparison import (
    COVER,
    SAMPLING,
    Arm,
    Speed,
    differing,
    differing_sampling,
    mean_and_std,
    metric_names,
    quantities,
    speed,
)

STAGE = "joint"
TARGET = "fd"  # arms are timed until this metric reaches the last value of the baseline


@dataclass(frozen=True)
class Table:
    """A table of text with a title, a note and column headings."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        lines = [[printable(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.head))]
        body = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in lines
        ]
        return "\n".join(
            [
                f"{self.title}{f' ({self.note})' if self.note else ''}",
                *(f"  {line}" for line in body),
            ]
        )


def tables(arms: list[Arm], stages: list[str]) -> list[Table]:
    """Return all tables of the comparison; the first arm is the baseline."""
    return [_runs(arms), _settings(arms), _metrics(arms), _speeds(arms), _costs(arms, stages)]


def _runs(arms: list[Arm]) -> Table:
    rows = [
        [arm.label, run.name, run.commit[:12] or "-", str(run.seed)]
        for arm in arms
        for run in arm.runs
    ]
    return Table(
        "Runs",
        "an arm is the runs that differ only in the seed; the first is the baseline",
        ["arm", "run", "commit", "seed"],
        rows,
    )


def _settings(arms: list[Arm]) -> Table:
    first = [arm.runs[0] for arm in arms]
    rows = [
        [key, *_changes([str(run.settings.get(key, "-")) for run in first])]
        for key in differing([run.settings for run in first])
    ]
    if len({run.code for run in first}) > 1:
        rows.append(["code", *_changes([run.code[:12] for run in first])])
    return Table(
        "What differs", "from the baseline to each arm", ["setting", *(a.label for a in arms)], rows
    )


def _changes(values: list[str]) -> list[str]:
    """Return the baseline's value and, for each other arm, the change from it.

    >>> _changes(["1.0", "2.0", "1.0"])
    ['1.0', '1.0 → 2.0', 'same']
    """
    base, *others = values
    return [base, *("same" if value == base else f"{base} → {value}" for value in others)]


def sampling_warning(arms: list[Arm]) -> str:
    """Return a warning if the arms' samples were drawn with different settings, else ""."""
    keys = differing_sampling([arm.runs[0] for arm in arms])
    if not keys:
        return ""
    return (
        f"Samples were drawn with different settings ({', '.join(SAMPLING[key] for key in keys)}): "
        "differences of their metrics come from these as well as from the models. All else of the "
        "protocols is the same; floors are given for each arm."
    )


def _metrics(arms: list[Arm]) -> Table:
    head = ["metric", arms[0].label]
    for arm in arms[1:]:
        head += [arm.label, "difference"]
    rows = []
    for name in metric_names(arms):
        base = arms[0].values(name)
        row = [name, mean_and_std(base)]
        for arm in arms[1:]:
            values = arm.values(name)
            row += [
                mean_and_std(values),
                f"{mean(values) - mean(base):+.4g}" if values and base else "-",
            ]
        rows.append(row)
    note = "mean ± standard deviation over seeds; differences to the baseline"
    if any(name.endswith("_floor") for name in metric_names(arms)):
        note += "; _floor: what real images in place of samples score, for each arm"
    if differing_sampling([arm.runs[0] for arm in arms]):
        note += "; samples drawn with different settings"
    return Table("Metrics", note, head, rows)


def _speeds(arms: list[Arm]) -> Table:
    base = arms[0].curve(STAGE, TARGET)
    found = [(arm, speed(base, arm.curve(STAGE, TARGET))) for arm in arms]
    head = ["arm", "steps", "baseline's steps over these", f"{COVER:.0%} interval", "seconds"]
    rows = [[arm.label, *_speed(arm, one, is_base=arm is arms[0])] for arm, one in found if one]
    none = "no curve: joint.fd_every is 0"
    if len(base[0]):
        none = "not compared: the baseline's curve ends no lower than it began"
    target = next((f"{one.target:.5g}" for _, one in found if one), none)
    note = (
        f"{target}; mean curve, straight lines between its points; interval by bootstrap over seeds"
    )
    return Table(f"{STAGE} steps to the baseline's last {TARGET}", note, head, rows)


def _speed(arm: Arm, one: Speed, *, is_base: bool) -> list[str]:
    last = arm.curve(STAGE, TARGET)[0][-1]
    steps = f"{one.steps:.0f}" if one.steps is not None else f"not in {last:.0f}"
    if is_base:
        return [steps, "1", "-", _seconds_to(arm, one)]
    if one.interval:
        interval = " to ".join(_times(bound) if bound else "not reached" for bound in one.interval)
    else:
        interval = "none: needs two seeds in both arms"
    return [
        steps,
        _times(one.ratio) if one.ratio is not None else "-",
        interval,
        _seconds_to(arm, one),
    ]


def _times(ratio: float) -> str:
    """Return a ratio of steps as text; it is infinite if an arm starts at the target."""
    return "at once" if ratio == float("inf") else f"{ratio:.3g}"


def _seconds_to(arm: Arm, one: Speed) -> str:
    """Return the seconds to the target at the mean pace, since steps of arms differ in cost."""
    whole, last = arm.seconds(STAGE), arm.curve(STAGE, TARGET)[0][-1]
    return (
        f"{whole * one.steps / last:.0f}"
        if whole is not None and one.steps is not None and last
        else "-"
    )


def _costs(arms: list[Arm], stages: list[str]) -> Table:
    rows = [[stage, *(_cost(arm.seconds(stage)) for arm in arms)] for stage in stages]
    totals = [[arm.seconds(stage) for stage in stages] for arm in arms]
    rows.append(
        [
            "together",
            *(
                _cost(None if None in known else sum(s for s in known if s is not None))
                for known in totals
            ),
        ]
    )
    note = "mean a run, of the process that made the output; -: made elsewhere, no record here"
    return Table("Cost, seconds", note, ["stage", *(arm.label for arm in arms)], rows)


def _cost(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def charts(arms: list[Arm]) -> list[Markup]:
    """Return a chart per logged quantity of the joint stage: means over the seeds of each arm."""
    logged = quantities(arms, STAGE)
    curves = [
        Curve(
            f"{curve.title}: {label}" if len(curve.lines) > 1 else curve.title,
            {name: name},
            curve.from_zero,
        )
        for curve in CURVES
        for label, name in curve.lines.items()
        if name in logged
    ]
    placed = {name for curve in curves for name in curve.lines}
    curves += [Curve(name, {name: name}) for name in sorted(logged - placed)]
    return [Markup(_chart(arms, curve)) for curve in curves]


def _chart(arms: list[Arm], curve: Curve) -> str:
    (name,) = curve.lines
    series = {}
    for arm in arms:  # an arm without the quantity keeps its place, and so its colour
        steps, values = arm.curve(STAGE, name)
        points = (
            list(zip(steps.tolist(), values.mean(0).tolist(), strict=True)) if len(steps) else []
        )
        series[arm.label if points else f"{arm.label}: none"] = points
    return line_chart(curve.title, series, from_zero=curve.from_zero)


def equal_curves(arms: list[Arm]) -> str:
    """Return which arms have equal mean curves, and in which quantities; "" if none have."""
    logged = sorted(quantities(arms, STAGE))
    curves = {name: [arm.curve(STAGE, name) for arm in arms] for name in logged}
    packed = {
        name: {
            arm.label: np.stack([steps, values.mean(0)])
            for arm, (steps, values) in zip(arms, of_arms, strict=True)
            if len(steps)
        }
        for name, of_arms in curves.items()
    }
    sentences = {name: equal_names(arrays) for name, arrays in packed.items()}
    by_sentence: dict[str, list[str]] = {}
    for name, of_name in sentences.items():
        for sentence in of_name:
            by_sentence.setdefault(sentence, []).append(name)
    return " ".join(
        f"{sentence[:-1]} in {'every curve' if len(names) == len(logged) else ', '.join(names)}."
        for sentence, names in by_sentence.items()
    )


def page(
    arms: list[Arm],
    shown_tables: Sequence[Table],
    pictures: dict[str, RunPictures] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the HTML page. Text from data is escaped.

    Args:
        arms: The first is the baseline.
        shown_tables: The tables of these arms, by `tables`.
        pictures: Pictures of runs, by name of the run.
        notes: Lines on runs that differ from their commit.
    """
    found = {run.name: RunPictures() for arm in arms for run in arm.runs} | (pictures or {})
    values: dict[str, Any] = {
        "arms": arms,
        "warning": sampling_warning(arms),
        "notes": notes,
        "tables": shown_tables,
        "charts": charts(arms),
        "equal_curves": equal_curves(arms),
        "samples": sample_sections(arms, found),
        "reconstructions": reconstruction_section(arms, found),
        "missing": missing_lines(arms, found),
    }
    return render_template("compare.html.j2", **values)
