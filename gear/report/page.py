"""Render the report as one self-contained HTML page. All text from data is escaped."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from gear.evaluation.metric_protocol import ABSENT, DISTINCT, absent_records, describe
from gear.report.figures import png_bytes
from gear.report.line_chart import line_chart

PNG = "data:image/png;base64,"
TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("charts.js",)
LIVE_PAGE = "live.html.j2"
LIVE_SCRIPTS = (*SCRIPTS, "live.js")
ROUNDING = 1e-6  # a distance below it is that of equal sets, 0 but for rounding
PHOTOGRAPH = 100 * 100  # pixels from which a picture is stored as JPEG
INTENDED_DRIFT = "warm to joint"
TITLES = {
    "fd": ("FD(efficientnet-lite0/b10)", "samples against training images; lower is better"),
    "fd_untrained": ("FD, untrained", "uniform codes, same tokenizer"),
    "coverage": ("Coverage", "training images with a sample nearby"),
    "recall": ("Recall", "training images among the samples"),
    "fid": ("FID", "samples against the reference; lower is better"),
    "sfid": ("sFID", "FID over spatial features"),
    "inception_score": ("Inception score", "mean over ten splits of the samples"),
    "inception_score_std": ("Inception score, standard deviation", "over the ten splits"),
    "inception_precision": ("Precision (Inception)", "samples among the training images"),
    "inception_recall": ("Recall (Inception)", "training images among the samples"),
    "rfid": ("rFID", "validation reconstructions against their originals"),
    "memorised": (
        "Copies",
        "samples nearer to a training image than 99 % of validation images, all decoded",
    ),
    "memorised_tokens": (
        "Copies by tokens",
        "samples that share more tokens with a training image than 99 % of validation images",
    ),
    "rfd": ("rFD(efficientnet-lite0/b10)", "reconstructions against training images"),
    "psnr": ("PSNR, dB", "validation reconstructions"),
    "ssim": ("SSIM", "validation reconstructions"),
    "ntp_bits": ("Bits per image", "validation tokens given their condition"),
}


HELD_OUT, SEEN = "", "_seen"  # suffixes of metrics of captions
SPATIAL = ("spatial", "spatial_teacher")  # contrast of our features, and of the teacher's
SHARES = (
    "coverage",
    "recall",
    "memorised",
    "memorised_tokens",
    "inception_precision",
    "inception_recall",
)


def data_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a PNG."""
    return PNG + base64.b64encode(png_bytes(image)).decode()


def picture(pixels: np.ndarray) -> str:
    """Return pixels (H, W, 3) uint8 as a data URI: PNG below 100 x 100 pixels, else JPEG."""
    image = Image.fromarray(pixels)
    if pixels.shape[0] * pixels.shape[1] < PHOTOGRAPH:
        return data_uri(image)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def cards(records: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the headline cards of metric records, with the floor of those that have one."""
    return [
        {
            "name": title,
            "note": note,
            "value": _shown(name, records[name]["value"]),
            "floor": _floor_note(name, records),
            "protocol": sorted(records[name]["protocol"].items()),
        }
        for name, (title, note) in TITLES.items()
        if name in records
    ]


def _shown(name: str, value: float) -> str:
    return format(value, ".1%" if name in SHARES else ".4g")


def _floor_note(name: str, records: dict[str, Any]) -> str:
    """Return what a perfect generator would score, and for distances the ratio to it."""
    if f"{name}_floor" not in records:
        return ""
    floor = records[f"{name}_floor"]
    value = floor["value"] if floor["value"] > ROUNDING else 0.0
    note = f"real images: {_shown(name, value)}"
    if "deviation" in floor["protocol"]:
        note += f" ± {_shown(name, floor['protocol']['deviation'])}"
    protocol = records[name]["protocol"]
    if DISTINCT in floor["protocol"]:
        note += f", {floor['protocol'][DISTINCT]} different ones"
    # a distance of fewer images is larger, so that 1 would not be perfect
    against = ("reference", "reference_sha256", "n")
    is_alike = all(protocol.get(key) == floor["protocol"].get(key) for key in against)
    if name not in SHARES and value > 0 and is_alike:
        note += f", ratio {records[name]['value'] / value:.3g}"
    return note


def agreement_rows(records: dict[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the table of agreement with captions.

    A score is significant if its 95 % interval lies above the score of shuffled captions. Captions
    that are in the training split too have rows of their own, after those of held-out captions.
    """
    rows = []
    for suffix, captions in ((HELD_OUT, "held out"), (SEEN, "in the training split too")):
        rows += _retrieval_rows(records, suffix, captions)
        if f"clip_score{suffix}" in records:
            value = f"{records[f'clip_score{suffix}']['value']:.2f}"
            empty = {"interval": "", "floor": "", "verdict": ""}
            rows.append(
                {
                    "name": "CLIPScore",
                    "captions": captions,
                    "rule": "100 cos",
                    "value": value,
                    **empty,
                }
            )
    return rows


def _retrieval_rows(records: dict[str, Any], suffix: str, captions: str) -> list[dict[str, str]]:
    rows = []
    for hit, metric in (("category", "retrieval_category"), ("own image", "retrieval_own_10%")):
        name = metric + suffix
        if name in records:
            value, low, high, floor = (
                records[name + part]["value"] for part in ("", "_low", "_high", "_floor")
            )
            rows.append(
                {
                    "name": hit,
                    "captions": captions,
                    "rule": _rule(records[name]["protocol"]),
                    "value": f"{value:.1%}",
                    "interval": f"{low:.1%} to {high:.1%}",
                    "floor": f"{floor:.1%}",
                    "verdict": "significant" if low > floor else "not significant",
                }
            )
    return rows


def _rule(protocol: dict[str, Any]) -> str:
    """Return what counts as a hit, and how many images it is retrieved from."""
    rule: str = protocol["hit"]
    return f"{rule} (of {protocol['gallery']} images)" if "gallery" in protocol else rule


def captions_note(records: dict[str, Any]) -> str:
    """Return how many validation captions are held out, in a sentence; "" for runs on classes."""
    if "val_captions_seen" not in records:
        return ""
    record = records["val_captions_seen"]
    seen, count = int(record["value"]), record["protocol"]["n"]
    note = (
        f"{seen} of {count} validation captions are equal to a caption of the training split, "
        "character by character; "
    )
    return note + ("their samples have rows of their own." if seen else "all are held out.")


def absent_metrics(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the names of the metrics that could not be computed, and why."""
    return [(name, one["protocol"][ABSENT]) for name, one in absent_records(values).items()]


def guidance_charts(records: dict[str, Any]) -> list[Markup]:
    """Return a chart per metric of the sweep over guidance scales."""
    titles = {
        "fd": "FD over guidance scale",
        "coverage": "coverage over guidance scale",
        "retrieval_category": "category agreement over guidance scale",
        "retrieval_own_10%": "own image in the nearest 10 %, over guidance scale",
    }
    charts = []
    for metric, title in titles.items():
        series = {
            "samples": _points(records, metric),
            "captions seen in training": _points(records, f"{metric}{SEEN}"),
            "shuffled captions": _points(records, f"{metric}_floor"),
        }
        filled = {name: points for name, points in series.items() if points}
        if filled:
            charts.append(
                Markup(line_chart(title, filled, from_zero=True, x_name="guidance scale"))
            )
    return charts


def _points(records: dict[str, Any], metric: str) -> list[tuple[float, float]]:
    """Return (guidance scale, value) of the records named `<metric>@<scale>`."""
    prefix = f"{metric}@"
    return sorted(
        (float(name.removeprefix(prefix)), record["value"])
        for name, record in records.items()
        if name.startswith(prefix)
    )


def histogram_chart(details: dict[str, Any]) -> Markup:
    """Return a chart of sorted code frequencies of both tokenizers and of samples."""
    series = {}
    for name in ("warm", "joint", "samples"):
        counts = details[name]["histogram"]
        total = max(1, sum(counts))
        every = max(1, len(counts) // 128)
        series[name] = [
            (float(rank), count / total) for rank, count in enumerate(counts) if rank % every == 0
        ]
    return Markup(line_chart("share of tokens by code rank", series, x_name="rank"))


def codebook_section(details: dict[str, Any]) -> dict[str, Any]:
    """Return the charts and tables of codebook-details.json."""
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
    alignment = [
        [
            row["features"],
            row["teacher"],
            *(_cell(row[name]) for name in ("cknna", "cka", "probe")),
            ", teacher ".join(_cell(row[k]) for k in SPATIAL if k in row),
        ]
        for row in details.get("representation", [])
    ]
    return {
        "charts": [histogram_chart(details)],
        "rows": rows,
        "churn": f"{details['churn']:.1%}",
        "temperature": details["temperature"],
        "alignment": alignment,
    }


def _cell(record: dict[str, Any]) -> str:
    return describe(record) if record["value"] is None else f"{record['value']:.3f}"


def copies_section(
    records: dict[str, Any],
    nearest: list[dict[str, Any]],
    samples: np.ndarray,
    training: np.ndarray,
) -> dict[str, Any]:
    """Return the pictures and the numbers of the section on copies.

    nearest: samples and their nearest training images, with distance and agreement, nearest first.
    samples, training: the images of both, (N, H, W, 3) uint8.
    """
    pairs = [
        {
            "sample": row["sample"],
            "image": picture(samples[i]),
            "training": picture(training[i]),
            "distance": f"{row['distance']:.1f}",
            "agreement": f"{row['agreement']:.0%}",
        }
        for i, row in enumerate(nearest)
    ]
    floor = records["memorised_floor"]
    return {
        "pairs": pairs,
        "share": f"{records['memorised']['value']:.1%}",
        "by_tokens": f"{records['memorised_tokens']['value']:.1%}",
        "floor": f"{floor['value']:.1%}",
        "floor_images": floor["protocol"].get(DISTINCT, 0),
        "threshold": f"{records['memorised']['protocol']['threshold']:.1f}",
    }


def drift_rows(drift: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return the rows of the table of token drift.

    Drift from the warm to the joint tokenizer is intended, so it is not marked as bad. Samples
    should use codes as real images do.
    """
    rows = []
    for name, found in sorted(drift.items()):
        verdict, colour = "no drift", "good"
        if found["drifted"]:
            verdict, colour = "drifted", "bad"
        if name == INTENDED_DRIFT:
            verdict = "changed, as intended" if found["drifted"] else "unchanged"
            colour = ""
        rows.append(
            {
                "name": name,
                "distance": f"{found['distance']:.4f}",
                "threshold": f"{found['threshold']:.4f}",
                "verdict": verdict,
                "colour": colour,
            }
        )
    return rows


def render(**values: Any) -> str:
    """Return the report page. Raises jinja2.UndefinedError if a value is missing."""
    return render_template("page.html.j2", **values)


def render_template(name: str, **values: Any) -> str:
    """Return a page of `templates/`; text that is not `Markup` is escaped.

    The page's Content-Security-Policy allows only its own script (`script_hash`), so that text from
    data could not run as a script even if it were not escaped.

    Raises:
        jinja2.UndefinedError: if a value is missing.
    """
    scripts = LIVE_SCRIPTS if name == LIVE_PAGE else SCRIPTS
    script = "\n".join((TEMPLATES / file).read_text() for file in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_fragment(name, script=Markup(script), script_hash=f"sha256-{digest}", **values)


def render_fragment(name: str, **values: Any) -> str:
    """Return a part of a page of `templates/`, escaped as `render_template` does."""
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
