"""Training curves as charts of the report, and as rows for `dvc plots`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from gear.report.line_chart import line_chart


@dataclass(frozen=True)
class Curve:
    """A chart: its title, the logged name of each line, and whether the y axis starts at zero."""

    title: str
    lines: dict[str, str]
    from_zero: bool = False


ENGINES = ("tokenizer", "generator", "discriminator")

RECORDED_CURVES = (
    Curve("FD of fresh samples", {"fd": "fd"}, from_zero=True),
    Curve(
        "next-token loss, nats per token",
        {"generator": "loss/ntp", "tokenizer": "loss/ntp_tokenizer"},
    ),
    Curve("next-token loss of validation images, bits per image", {"validation": "val/ntp_bits"}),
    Curve(
        "cosine to the teacher's features of validation images",
        {"validation": "val/teacher_cosine"},
    ),
    Curve(
        "alignment loss",
        {"soft, to the tokenizer": "loss/align_soft", "hard, to the generator": "loss/align_hard"},
    ),
    Curve(
        "gradient of guidance at the latents, over that of the tokenizer's loss",
        {"ratio": "guidance/ratio"},
        from_zero=True,
    ),
    Curve("cosine between the two gradients", {"cosine": "guidance/cosine"}),
    Curve("L1", {"L1": "loss/l1"}, from_zero=True),
    Curve("perceptual loss", {"perceptual": "loss/perceptual"}, from_zero=True),
    Curve(
        "codebook and commitment loss",
        {"codebook": "loss/codebook", "commitment": "loss/commitment"},
    ),
    Curve("entropy term", {"entropy": "loss/entropy"}),
    Curve(
        "adversarial losses",
        {"tokenizer": "loss/adversarial", "discriminator": "loss/discriminator"},
    ),
    Curve("codebook usage", {"usage": "codebook/usage"}, from_zero=True),
    Curve("codebook perplexity", {"perplexity": "codebook/perplexity"}, from_zero=True),
)
LIVE_CURVES = (  # in live logs only
    Curve("images per second", {"images": "images_per_s"}, from_zero=True),
    Curve(
        "seconds a step",
        {name: f"time/{name}" for name in ("data", "compute", "measure", "save")},
        from_zero=True,
    ),
    Curve("gradient norm before clipping", {name: f"grad_norm/{name}" for name in ENGINES}),
    Curve("learning rate", {name: f"lr/{name}" for name in ENGINES}, from_zero=True),
    Curve("peak memory, GiB", {"memory": "memory/peak_gib"}, from_zero=True),
    Curve(
        "FLOP utilisation of the GPU", {"model": "mfu", "with recomputation": "hfu"}, from_zero=True
    ),
)
CURVES = RECORDED_CURVES + LIVE_CURVES


def curve_charts(rows: list[dict[str, float]]) -> list[Markup]:
    """Return the charts of a stage's logged rows; quantities not in `CURVES` come last."""
    placed = {name for curve in CURVES for name in curve.lines.values()}
    others = sorted({key for row in rows for key in row} - placed - {"step"})
    charts = []
    for curve in [*CURVES, *(Curve(name, {name: name}) for name in others)]:
        series = {
            label: points
            for label, name in curve.lines.items()
            if (points := [(row["step"], row[name]) for row in rows if name in row])
        }
        if series:
            chart = line_chart(curve.title, series, from_zero=curve.from_zero)
            charts.append(Markup(chart))
    return charts


def generator_curve(
    joint: list[dict[str, float]], generator: list[dict[str, float]]
) -> list[dict[str, float]]:
    """Join the curves of joint training and generator training, with continued steps.

    Row 0 of the second is the last row of the first, and left out.

    >>> generator_curve([{"step": 50, "fd": 12}], [{"step": 0, "fd": 12}, {"step": 20, "fd": 9}])
    [{'step': 50, 'fd': 12}, {'step': 70, 'fd': 9}]
    """
    before = joint[-1]["step"] if joint else 0
    return joint + [{**row, "step": row["step"] + before} for row in generator if row["step"]]


def plot_rows(rows: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Return rows of a curve for `dvc plots`, which needs the same names in all of them.

    These are the rows with FD and losses if there are any, else all rows with losses. A value that
    is not finite becomes None.
    """
    logged = [row for row in rows if "loss/ntp" in row]
    chosen = [row for row in logged if "fd" in row] or logged
    common = set.intersection(*(set(row) for row in chosen)) if chosen else set()
    return [
        {name: row[name] if math.isfinite(row[name]) else None for name in sorted(common)}
        for row in chosen
    ]
