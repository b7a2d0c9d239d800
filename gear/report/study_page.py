"""HTML page of a study: verdicts, curves, tables, samples side by side, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, mean
from typing import Any

from markupsafe import Markup

from gear.report.comparison_page import Table
from gear.report.interval_figure import interval_figure
from gear.report.line_chart import Band, line_chart
from gear.report.page import render_template
from gear.runs.comparison import differing, mean_and_std
from gear.runs.hypotheses import Finding, judge
from gear.runs.paired_speed import measure_speed_up
from gear.runs.study_file import Study
from gear.runs.study_records import Record, by_arm_and_seed, comparable_curves, samples_file

METRICS = {  # titles by name
    "fd": "FD",
    "coverage": "coverage",
    "ntp_bits": "bits per image",
    "rfd": "rFD",
    "psnr": "PSNR, dB",
    "memorised": "copies",
    "usage": "codebook usage",
    "perplexity": "codebook perplexity",
    "churn": "tokens changed since warm-up",
}
ALIGNMENT = {
    "latents": "tokenizer's latents",
    "tap": "generator's tap",
}
CURVES = {
    "fd": "FD of fresh samples",
    "val/ntp_bits": "next-token loss of validation images, bits per image",
    "val/teacher_cosine": "cosine to the teacher, validation images",
    "loss/ntp": "next-token loss, nats per token",
    "loss/l1": "L1 of reconstructions",
    "codebook/perplexity": "codebook perplexity",
    "guidance/ratio": "gradient of guidance at the latents, over that of the tokenizer's loss",
    "guidance/cosine": "cosine between the two gradients",
}
DIFFERENCES = {"fd": "fd", "ntp_bits": "val/ntp_bits"}  # curves of predicted metrics
CONVERGED = 0.02  # maximum change of the warm-up's losses over its last quarter


@dataclass(frozen=True)
class Judged:
    """A hypothesis with its verdict and the findings on its predictions."""

    name: str
    claim: str
    verdict: str
    findings: list[Finding]


def write_page(study: Study, records: dict[str, Record], failed: dict[str, str]) -> str:
    """Return the HTML page of what has run so far. Text from data is escaped.

    Args:
        study: The study.
        records: Records of finished runs, by name of the run.
        failed: Reasons of runs that failed, by name.
    """
    found = list(records.values())
    by_arm = by_arm_and_seed(found)
    arms = [arm for arm in study.config.arms if arm in by_arm]
    values: dict[str, Any] = {
        "study": study,
        "command": f"gear study {study.file}",
        "planned": len(study.runs),
        "finished": len(found),
        "judged": [
            Judged(name, hypothesis.claim, *judge(hypothesis, found, study.config.seeds))
            for name, hypothesis in study.config.hypotheses.items()
        ],
        "earlier_plans": sum(record.plan != study.plan for record in found),
        "interval_figure": lambda effects: Markup(interval_figure(effects)),
        "charts": charts(arms, by_arm),
        "differences": difference_charts(study, by_arm),
        "warm_up": warm_up(found),
        "samples": sample_strips(study, records),
        "tables": [
            table
            for table in (
                _metrics(arms, by_arm),
                _alignment(arms, by_arm),
                _speeds(study, arms, by_arm),
                _costs(arms, by_arm),
                _settings(study, arms, by_arm),
                _runs(study, records, failed),
            )
            if table.rows
        ],
    }
    return render_template("study.html.j2", **values)


def charts(arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> list[Markup]:
    """Return a chart per quantity: the mean over seeds, in a band from minimum to maximum."""
    found = []
    for quantity, title in CURVES.items():
        curves = {
            arm: [dict(record.points(quantity)) for record in by_arm[arm].values()] for arm in arms
        }
        found.append(_mean_chart(title, curves))
    return [chart for chart in found if chart]


def difference_charts(study: Study, by_arm: dict[str, dict[int, Record]]) -> list[Markup]:
    """Return charts of predicted differences of FD and bits per image over the training.

    There is a chart per arm and quantity, with a line per arm that it is compared with.
    """
    predicted = {
        (DIFFERENCES[prediction.value], prediction.arm, other): None
        for hypothesis in study.config.hypotheses.values()
        for prediction in hypothesis.predictions
        for other in prediction.than
        if prediction.value in DIFFERENCES and {prediction.arm, other} <= by_arm.keys()
    }
    charts: dict[tuple[str, str], dict[str, list[dict[float, float]]]] = {}
    for quantity, arm, other in predicted:
        pairs = [
            (by_arm[arm][seed], by_arm[other][seed])
            for seed in sorted(by_arm[arm].keys() & by_arm[other].keys())
        ]
        lines = [
            _subtracted(dict(first.points(quantity)), dict(second.points(quantity)))
            for first, second in pairs
            if comparable_curves(first, second, quantity)
        ]
        if lines:
            charts.setdefault((quantity, arm), {})[f"minus {other}"] = lines
    found = []
    for (quantity, arm), curves in charts.items():
        name = next(iter(curves)) if len(curves) == 1 else "minus another arm"
        found.append(_mean_chart(f"{CURVES[quantity]}: {arm} {name}", curves))
    return [chart for chart in found if chart]


def _subtracted(first: dict[float, float], second: dict[float, float]) -> dict[float, float]:
    return {step: first[step] - second[step] for step in first.keys() & second.keys()}


def _mean_chart(title: str, curves: dict[str, list[dict[float, float]]]) -> Markup:
    """Return the chart of the mean over seeds of each label's curves, with a band of the extremes.

    curves: values by step, a dict per seed. Steps that a seed lacks are left out. Empty if there
        are none.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, Band] = {}
    for name, runs in curves.items():
        steps = sorted(set.intersection(*(set(points) for points in runs)))
        label = f"{name} ({len(runs)})"
        series[label] = [(step, mean(points[step] for points in runs)) for step in steps]
        bands[label] = [
            (step, min(p[step] for p in runs), max(p[step] for p in runs)) for step in steps
        ]
    return Markup(line_chart(title, series, bands=bands) if any(series.values()) else "")


def warm_up(records: Sequence[Record]) -> dict[str, Any]:
    """Return the chart of the warm-ups' losses, and their changes over the last quarter.

    Runs that share a warm-up count once.
    """
    shared = {str(record.warm_up): record for record in records if record.warm_up}
    keys = [
        key
        for key in differing([record.settings for record in shared.values()])
        if key.startswith(("tokenizer.", "data.", "loss.", "train.", "gan."))
    ]
    series, changes = {}, {}
    for record in shared.values():
        rows = [row for row in record.warm_up if "loss/l1" in row and "loss/perceptual" in row]
        points = [(row["step"], row["loss/l1"] + row["loss/perceptual"]) for row in rows]
        values = [f"{key.split('.')[1]} {record.settings.get(key, '-')}" for key in keys]
        label = ", ".join([*values, f"seed {record.seed}"])
        series[label] = points
        changes[label] = _last_change(points, record.settings["tokenizer.steps"])
    known = [change for change in changes.values() if change is not None]
    return {
        "chart": Markup(line_chart("warm-up: L1 + perceptual loss", series, from_zero=True)),
        "changes": [
            f"{label}: {'unknown' if change is None else f'{change:+.1%}'}"
            for label, change in changes.items()
        ],
        "converged": bool(known) and max(map(abs, known)) < CONVERGED,
        "limit": f"{CONVERGED:.0%}",
    }


def _last_change(points: list[tuple[float, float]], steps: int) -> float | None:
    """Return the relative change between the means over the sixth and the last eighth of steps."""
    before = [y for x, y in points if 0.625 * steps < x <= 0.75 * steps]
    last = [y for x, y in points if x > 0.875 * steps]
    return mean(last) / mean(before) - 1 if before and last else None


def sample_strips(study: Study, records: dict[str, Record]) -> list[dict[str, str]]:
    """Return the picture of each run's first samples, as a path relative to the page.

    They are not embedded, since git would store them again with each version of the page.
    """
    return [
        {"arm": run.arm, "seed": str(run.seed), "picture": str(file.relative_to(study.folder))}
        for run in study.runs
        if run.name in records and (file := samples_file(study, run)).is_file()
    ]


def _values(records: dict[int, Record], name: str) -> list[float]:
    ends = [record.last_value(name) for record in records.values()]
    return [value for value in ends if value is not None]


def _metrics(arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> Table:
    rows = [
        [
            arm,
            str(len(by_arm[arm])),
            *(mean_and_std(_values(by_arm[arm], name)) for name in METRICS),
        ]
        for arm in arms
    ]
    floors = {
        name: {
            f"{floor.value:.4g}"
            for one in by_arm.values()
            for record in one.values()
            if (floor := record.metric(f"{name}_floor"))
        }
        for name in METRICS
    }
    if any(floors.values()):
        cells = [", ".join(sorted(floors[name])) or "-" for name in METRICS]
        rows.append(["floor: real images in place of samples", "", *cells])
    note = "mean ± standard deviation over seeds"
    return Table("Metrics at the end", note, ["arm", "seeds", *METRICS.values()], rows)


def _alignment(arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> Table:
    names = [
        (f"{metric}/{place}/{teacher}", f"{metric}, {title}, teacher {teacher}")
        for metric in ("cknna", "cka", "probe")
        for place, title in ALIGNMENT.items()
        for teacher in (1, 2)
    ]
    names += [(f"spatial/{at}/1", f"spatial contrast, {title}") for at, title in ALIGNMENT.items()]
    rows = [
        [title, *(mean_and_std(_values(by_arm[arm], name)) for arm in arms)]
        for name, title in names
        if any(_values(by_arm[arm], name) for arm in arms)
    ]
    teachers = list(
        dict.fromkeys(
            record.metrics[f"cknna/tap/{number}"]["protocol"]["teacher"]
            for number in (1, 2)
            for one in by_arm.values()
            for record in one.values()
            if f"cknna/tap/{number}" in record.metrics
        )
    )
    note = f"validation patches; teachers: {', '.join(teachers)}"
    return Table("Likeness to teachers", note, ["measure", *arms], rows)


def _speeds(study: Study, arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> Table:
    """Return how much sooner each arm reaches the last FD of the arms in `sooner` predictions."""
    others = {
        arm: None
        for hypothesis in study.config.hypotheses.values()
        for prediction in hypothesis.predictions
        for arm in prediction.than
        if prediction.kind == "sooner" and arm in by_arm
    }
    units = ("steps", "seconds", "flops", "seconds + warm-up", "flops + warm-up")
    rows = []
    for other in others:
        for arm in [arm for arm in arms if arm not in others]:
            speed = measure_speed_up(by_arm[arm], by_arm[other], "fd")
            cells = [
                _ratio(speed.ratios.get(unit, {}), missed=bool(speed.missed)) for unit in units
            ]
            rows.append([arm, other, *cells, ", ".join(map(str, speed.missed)) or "none"])
    head = ["arm", "reaches the last FD of", "steps", "seconds", "FLOPs"]
    head += ["seconds with warm-up", "FLOPs with warm-up", "seeds that do not reach it"]
    note = (
        "the other's cost over the arm's, more than 1 is sooner: geometric mean, and each seed; no "
        "mean where a seed does not reach it"
    )
    return Table("How much sooner", note, head, rows)


def _ratio(ratios: dict[int, float], *, missed: bool) -> str:
    """Return the geometric mean of ratios and each ratio, as text."""
    if not ratios:
        return "-"
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios.values())
    return f"{'-' if missed else f'{geometric_mean(ratios.values()):.2f}'} ({each})"


def _costs(arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> Table:
    stages = ("tokenizer", "joint", "generator", "sample", "reconstruction", "evaluate")
    rows = []
    for arm in arms:
        records = list(by_arm[arm].values())
        seconds = [
            [record.seconds[stage] for record in records if stage in record.seconds]
            for stage in stages
        ]
        flops = [
            [record.flops[stage] for record in records if stage in record.flops]
            for stage in ("tokenizer", "joint", "generator")
        ]
        rows.append(
            [
                arm,
                *(f"{mean(values):.0f}" if values else "-" for values in seconds),
                *(f"{mean(values) / 1e12:.1f}" if values else "-" for values in flops),
            ]
        )
    head = ["arm", *(f"{stage}, s" for stage in stages)]
    head += ["warm-up, TFLOP", "joint, TFLOP", "stage 2, TFLOP"]
    note = "mean a run; seconds of the process that made the output, FLOPs estimated from shapes"
    return Table("Cost", note, head, rows)


def _settings(study: Study, arms: Sequence[str], by_arm: dict[str, dict[int, Record]]) -> Table:
    first = {arm: next(iter(by_arm[arm].values())).settings for arm in arms}
    keys = differing(list(first.values()))
    rows = [[key, *(str(first[arm].get(key, "-")) for arm in arms)] for key in keys]
    note = f"all else is preset {study.config.preset} with the shared settings of {study.file}"
    return Table("What differs between arms", note, ["setting", *arms], rows)


def _runs(study: Study, records: dict[str, Record], failed: dict[str, str]) -> Table:
    rows = []
    for run in study.runs:
        record = records.get(run.name)
        if record is None:
            rows.append([run.name, failed.get(run.name, "not run"), "", "", ""])
            continue
        hardware = str(record.provenance.get("hardware", "-"))
        threads = str(record.provenance.get("threads", "-"))
        rows.append([run.name, record.commit[:12], record.code, hardware, threads])
    head = ["run", "experiment's commit", "code", "hardware", "threads"]
    return Table("Runs", "", head, rows)


def describe(study: Study, records: dict[str, Record]) -> str:
    """Return all verdicts and findings as text, one a line."""
    lines = []
    for name, hypothesis in study.config.hypotheses.items():
        verdict, findings = judge(hypothesis, list(records.values()), study.config.seeds)
        lines.append(f"{name} {verdict}: {hypothesis.claim}")
        lines += [f"   {finding.verdict}: {finding.evidence}" for finding in findings]
    return "\n".join(lines)
