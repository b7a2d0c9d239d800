"""Charts as SVG."""

from __future__ import annotations

from gear.report.figures import line_chart


def test_a_chart_spans_its_axes() -> None:
    chart = line_chart("loss", {"a": [(0.0, 1.0), (10.0, 3.0)]})
    assert 'points="48.0,176.0 350.0,26.0"' in chart
    assert line_chart("empty", {}) == ""
