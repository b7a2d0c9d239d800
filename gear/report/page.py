"""The report page: plain data in, one self-contained HTML text out. All text from data is escaped."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from gear.report.figures import line_chart

TITLES = {
    "fd": ("FD(efficientnet-lite0/b10)", "samples against training images; lower is better"),
    "fd_floor": ("FD floor", "half of the training images against the other"),
    "fd_untrained": ("FD, untrained", "uniform codes, same tokenizer"),
    "coverage": ("Coverage", "training images with a sample near"),
    "recall": ("Recall", "training images among the samples"),
    "fid": ("FID", "samples against the reference; lower is better"),
    "fid_floor": ("FID floor", "half of the training images kept against the other"),
    "sfid": ("sFID", "the same over spatial features"),
    "inception_score": ("Inception score", "mean over ten splits of the samples"),
    "inception_score_std": ("Inception score, deviation", "over the ten splits"),
    "inception_precision": ("Precision (Inception)", "samples among the training images"),
    "inception_recall": ("Recall (Inception)", "training images among the samples"),
    "rfid": ("rFID", "validation reconstructions against their originals"),
    "memorised": ("Copies", "samples nearer to training than the closest 1 % of validation"),
    "rfd": ("rFD(efficientnet-lite0/b10)", "reconstructions against training images"),
    "psnr": ("PSNR, dB", "validation reconstructions"),
    "ssim": ("SSIM", "validation reconstructions"),
    "ntp_bits": ("Bits an image", "validation tokens given the class"),
}


def data_uri(image: Image.Image) -> str:
    """PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


SHARES = ("coverage", "recall", "memorised", "inception_precision", "inception_recall")


def cards(records: dict[str, Any]) -> list[dict[str, Any]]:
    """Headline cards of metric records."""
    return [
        {
            "name": title,
            "note": note,
            "value": f"{records[name]['value']:.1%}"
            if name in SHARES
            else f"{records[name]['value']:.4g}",
            "protocol": sorted(records[name]["protocol"].items()),
        }
        for name, (title, note) in TITLES.items()
        if name in records
    ]


def agreement_rows(records: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the table of agreement with captions: score, 95 % interval, floor, and whether the interval excludes it."""
    rows = []
    for name, hit in (("retrieval_category", "category"), ("retrieval_own_10%", "own image")):
        if name in records:
            value, low, high, floor = (
                records[name + part]["value"] for part in ("", "_low", "_high", "_floor")
            )
            row = {
                "name": hit,
                "rule": records[name]["protocol"]["hit"],
                "value": f"{value:.1%}",
                "interval": f"{low:.1%} to {high:.1%}",
            }
            rows.append(
                {
                    **row,
                    "floor": f"{floor:.1%}",
                    "verdict": "above the floor" if low > floor else "not told from the floor",
                }
            )
    if "clip_score" in records:
        rows.append(
            {
                "name": "CLIPScore",
                "rule": "100 cos",
                "value": f"{records['clip_score']['value']:.2f}",
                "interval": "",
                "floor": "",
            }
        )
        rows[-1]["verdict"] = ""
    return rows


def guidance_charts(records: dict[str, Any]) -> list[Markup]:
    """Metrics of the sweep over guidance scales, a chart each."""
    charts = []
    titles = {
        "fd": "FD over guidance scale",
        "coverage": "coverage over guidance scale",
        "retrieval_category": "category agreement over guidance scale",
        "retrieval_own_10%": "own image in the nearest 10 %, over guidance scale",
    }
    for metric, title in titles.items():
        points = {
            float(name.split("@")[1]): r["value"]
            for name, r in records.items()
            if name.startswith(f"{metric}@")
        }
        floor = {
            float(name.split("@")[1]): r["value"]
            for name, r in records.items()
            if name.startswith(f"{metric}_floor@")
        }
        if points:
            series = {"samples": sorted(points.items())} | (
                {"shuffled captions": sorted(floor.items())} if floor else {}
            )
            charts.append(Markup(line_chart(title, series, from_zero=True)))
    return charts


CURVES: list[
    tuple[str, dict[str, str], bool]
] = [  # title, logged name of each line, whether the axis starts at zero
    ("FD of fresh samples", {"fd": "fd"}, True),
    (
        "next-token loss, nats a token",
        {"generator": "loss/ntp", "tokenizer": "loss/ntp_tokenizer"},
        False,
    ),
    (
        "alignment loss",
        {"soft, to the tokenizer": "loss/align_soft", "hard, to the generator": "loss/align_hard"},
        False,
    ),
    ("L1", {"L1": "loss/l1"}, True),
    ("perceptual loss", {"perceptual": "loss/perceptual"}, True),
    (
        "codebook and commitment loss",
        {"codebook": "loss/codebook", "commitment": "loss/commitment"},
        False,
    ),
    ("entropy term", {"entropy": "loss/entropy"}, False),
    (
        "adversarial losses",
        {"tokenizer": "loss/adversarial", "discriminator": "loss/discriminator"},
        False,
    ),
    ("codebook usage", {"usage": "codebook/usage"}, True),
    ("codebook perplexity", {"perplexity": "codebook/perplexity"}, True),
]


def curve_charts(rows: list[dict[str, float]]) -> list[Markup]:
    """The charts of a stage's logged rows; a quantity without a place in `CURVES` gets one of its own."""
    placed = {name for _, lines, _ in CURVES for name in lines.values()}
    others = sorted({key for row in rows for key in row} - placed - {"step"})
    charts = []
    for title, lines, from_zero in [*CURVES, *((name, {name: name}, False) for name in others)]:
        series = {
            label: [(row["step"], row[name]) for row in rows if name in row]
            for label, name in lines.items()
        }
        series = {label: line for label, line in series.items() if line}
        if series:
            charts.append(Markup(line_chart(title, series, from_zero=from_zero)))
    return charts


def histogram_chart(details: dict[str, Any]) -> Markup:
    """Sorted code frequencies of warm and joint tokenizer and of samples, as shares of tokens."""
    series = {}
    for name in ("warm", "joint", "samples"):
        counts = details[name]["histogram"]
        total = max(1, sum(counts))
        every = max(1, len(counts) // 128)
        series[name] = [
            (float(rank), count / total) for rank, count in enumerate(counts) if rank % every == 0
        ]
    return Markup(line_chart("share of tokens by code rank", series))


def codebook_section(details: dict[str, Any]) -> dict[str, Any]:
    """Charts and table of codebook-details.json."""
    rows = [
        [
            name,
            f"{details[name]['usage']:.1%}",
            f"{details[name]['perplexity']:.1f}",
            details[name]["dead"],
            f"{details[name]['top_mass'].get('10', 1.0):.1%}",
            f"{details['support'][name]['effective_support']:.1f}"
            if name in details["support"]
            else "",
        ]
        for name in ("warm", "joint", "samples")
    ]
    alike = [
        [
            row["features"],
            row["teacher"],
            *(f"{row[name]['value']:.3f}" for name in ("cknna", "cka", "probe")),
        ]
        for row in details.get("representation", [])
    ]
    return {
        "charts": [histogram_chart(details)],
        "rows": rows,
        "churn": f"{details['churn']:.1%}",
        "temperature": details["temperature"],
        "alike": alike,
    }


def render(**values: Any) -> str:
    """The report page. Raises jinja2.UndefinedError when a value is missing."""
    return render_template("page.html.j2", **values)


def render_template(name: str, **values: Any) -> str:
    """A page of `templates/`, what is not `Markup` escaped. Raises jinja2.UndefinedError when a value is missing."""
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(name).render(**values)
