"""Test that charts show every line, cut no label, and only drop points that nobody would see."""

from __future__ import annotations

import json
import math
import re
from html import unescape
from typing import Any

import pytest

from gear.report.line_chart import HEIGHT, MOST_POINTS, WIDTH, Axes, line_chart, thinned, ticks
from gear.report.page import TEMPLATES

LINE = [(0.0, 1.0), (10.0, 3.0)]


def data_of(chart: str) -> dict[str, Any]:
    found = re.search('data-chart="([^"]*)"', chart)
    assert found
    return dict(json.loads(unescape(found[1])))


def test_a_chart_has_a_title_lines_and_their_points_as_data() -> None:
    chart = line_chart("loss", {"a": LINE})
    assert "<figcaption>loss</figcaption>" in chart
    assert data_of(chart)["series"] == [{"label": "a", "points": [[0.0, 1.0], [10.0, 3.0]]}]
    assert "loss: a from 1 to 3" in chart


def test_steps_beyond_a_million_stay_whole() -> None:
    chart = line_chart("loss", {"a": [(1_234_567.0, 0.123456789), (1_234_568.0, 2.0)]})
    points = data_of(chart)["series"][0]["points"]
    assert points == [[1_234_567.0, 0.123457], [1_234_568.0, 2.0]]


def test_without_points_there_is_no_chart() -> None:
    assert line_chart("empty", {}) == ""
    assert line_chart("empty", {"a": []}) == ""
    assert line_chart("empty", {"a": [(1.0, math.nan)]}) == ""


def test_values_that_are_no_numbers_are_left_out() -> None:
    chart = line_chart("loss", {"a": [*LINE, (20.0, math.nan), (30.0, math.inf)]})
    assert "nan" not in chart.lower()
    assert "inf" not in chart.lower()
    assert data_of(chart)["axes"][:2] == [0.0, 10.0]


def test_a_single_point_is_marked_in_the_middle() -> None:
    chart = line_chart("fd", {"a": [(50.0, 7.0)]})
    assert chart.count("<circle") == 1
    assert data_of(chart)["axes"][:2] == [49.0, 51.0]
    assert ">50</text>" in chart
    assert "49" not in "".join(re.findall("<text[^>]*>([^<]*)", chart))


def test_equal_lines_are_both_seen() -> None:
    """Test that of two equal lines the upper one is dashed and the lower one wider."""
    chart = line_chart("losses", {"first": LINE, "second": LINE})
    widths = [float(w) for w in re.findall("stroke-width:([0-9.]+)", chart)]
    assert widths[0] > widths[1]
    style = (TEMPLATES / "style.css").read_text()
    dashes = [re.search(rf"\.s{n} {{[^}}]*stroke-dasharray: ([^;]*);", style) for n in range(8)]
    assert dashes[0] is None
    assert len({found[1] for found in dashes[1:] if found}) == 7


def test_the_legend_is_text_outside_the_drawing() -> None:
    chart = line_chart("losses", {"of the tokenizer": LINE, "of the generator": LINE})
    legend, drawing = chart.split('<svg viewBox="0 0 360')
    assert "of the generator</li>" in legend
    assert "<text" not in legend
    assert ">of the generator</text>" not in drawing
    assert "legend" not in line_chart("loss", {"a": LINE})


@pytest.mark.parametrize(
    "points",
    [
        LINE,
        [(0.0, 123456.789), (1e6, 123457.0)],
        [(20.0, -5.8e-7), (123456.0, 3.2e-5)],
        [(1.0, 1e15), (2.0, 3e15)],
        [(0.0, 0.0), (0.0, 0.0)],
        [(0.0, -3.0), (7.0, -3.0)],
        [(0.0, 1.0), (7.0, 1.0 + 1e-7)],
    ],
)
def test_no_label_is_cut_and_all_points_lie_inside(points: list[tuple[float, float]]) -> None:
    chart = line_chart("t", {"a": points})
    texts = re.findall('<text x="([^"]*)" y="([^"]*)" text-anchor="(.*?)">(.*?)</text>', chart)
    assert len(texts) >= 3
    for x, y, anchor, text in texts:
        width = 6.2 * len(text)
        left = float(x) - (width if anchor == "end" else width / 2)
        assert left >= 0, text
        assert left + width <= WIDTH, text
        assert 8 < float(y) < HEIGHT
    y_texts = [text for _, _, anchor, text in texts if anchor == "end"]
    assert len(set(y_texts)) == len(y_texts)
    x0, x1, y0, y1 = data_of(chart)["axes"]
    assert all(x0 <= x <= x1 and y0 - 1e-9 <= y <= y1 + 1e-9 for x, y in points)


def test_an_axis_may_start_at_zero() -> None:
    assert Axes.around([0.0, 1.0], [5.0, 9.0, 0.0]).y0 == 0
    assert data_of(line_chart("t", {"a": [(0.0, 5.0), (1.0, 9.0)]}, from_zero=True))["axes"][2] == 0


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (17.0, 23.5), (-1e-9, 1e-9), (0.0, 7e12)])
def test_ticks_are_inside_and_few(low: float, high: float) -> None:
    marks = ticks(low, high, about=4)
    assert 2 <= len(marks) <= 9
    assert all(low - 1e-6 * (high - low) <= mark <= high + 1e-6 * (high - low) for mark in marks)


def test_thinning_keeps_order_ends_and_the_peak() -> None:
    points = [(float(x), math.sin(x / 50) + 5 * (x == 7777)) for x in range(20_000)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert kept == sorted(kept)
    assert {points[0], points[7777], points[-1]} <= set(kept)


def test_bands_widen_the_axis() -> None:
    chart = line_chart("t", {"a": LINE}, bands={"a": [(0.0, -4.0, 2.0), (10.0, 1.0, 9.0)]})
    assert '<polygon class="b s0"' in chart
    assert data_of(chart)["axes"][2] <= -4
    assert data_of(chart)["axes"][3] >= 9


def test_text_from_data_is_escaped() -> None:
    evil = "\"'><script>alert(1)</script>"
    chart = line_chart(evil, {evil: LINE, "b": LINE})
    assert "<script" not in chart
    assert data_of(chart)["series"][0]["label"] == evil
