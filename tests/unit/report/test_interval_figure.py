"""Test that the figure of intervals has seeds, mean and bounds on one axis, and a shaded side."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from gear.report.interval_figure import MARGIN, WIDTH, interval_figure
from gear.runs.hypotheses import Effect
from gear.runs.intervals import interval

VALUES = {0: -3.0, 1: -1.0, 2: -2.0}
EFFECT = Effect("fd: a - b", VALUES, interval(list(VALUES.values())), limit=0.0, above=False)


def circles(figure: str) -> list[float]:
    return [float(x) for x in re.findall('<circle class="seed" cx="([^"]*)"', figure)]


def test_values_and_bounds_are_placed_on_a_linear_axis() -> None:
    figure = interval_figure([EFFECT])
    ticks = {
        float(text): float(x)
        for x, text in re.findall(
            '<text x="([^"]*)" y="[^"]*" text-anchor="middle">([^<]*)', figure
        )
    }
    (first, at_first), (last, at_last) = min(ticks.items()), max(ticks.items())

    def value(x: float) -> float:
        return first + (x - at_first) / (at_last - at_first) * (last - first)

    assert [value(x) for x in circles(figure)] == pytest.approx(list(VALUES.values()), abs=0.02)
    bar = re.search(r'class="bar" d="M([\d.]+),\d+H([\d.]+)"', figure)
    assert bar
    bounds = (EFFECT.interval.low, EFFECT.interval.high)
    assert [value(float(x)) for x in bar.groups()] == pytest.approx(bounds, abs=0.02)


@pytest.mark.parametrize("above", [False, True])
def test_the_predicted_side_of_the_limit_is_shaded(above: bool) -> None:
    figure = interval_figure([replace(EFFECT, above=above)])
    found = re.search(r'class="side" x="([\d.]+)" y="0" width="([\d.]+)"', figure)
    assert found
    start, width = map(float, found.groups())
    inside = [start <= x <= start + width for x in circles(figure)]
    assert all(inside) if not above else not any(inside)
    assert start + width == pytest.approx(WIDTH - MARGIN) if above else start == MARGIN


def test_effects_share_an_axis_and_each_has_a_row() -> None:
    other = replace(EFFECT, title="fd: a - c")
    figure = interval_figure([EFFECT, other])
    assert circles(figure)[:3] == circles(figure)[3:]
    assert len(set(re.findall('<circle[^>]* cy="([^"]*)"', figure))) == 2


def test_one_seed_has_a_dot_and_no_bar() -> None:
    lone = Effect("fd: a - b", {4: -2.0}, interval([-2.0]), limit=0.0, above=False)
    figure = interval_figure([lone])
    assert "seed 4: -2" in figure
    assert 'class="bar"' not in figure


def test_equal_values_at_the_limit_have_an_axis() -> None:
    flat = Effect("fd: a - b", {0: 0.0, 1: 0.0}, interval([0.0, 0.0]), limit=0.0, above=True)
    assert len(circles(interval_figure([flat]))) == 2


def test_without_effects_there_is_no_figure() -> None:
    assert interval_figure([]) == ""


def test_names_are_escaped_and_read_out() -> None:
    figure = interval_figure([replace(EFFECT, title="<b>fd</b>")])
    assert "<b>" not in figure
    assert 'aria-label="&lt;b&gt;fd&lt;/b&gt;: mean -2, interval -4.48 to 0.484"' in figure
