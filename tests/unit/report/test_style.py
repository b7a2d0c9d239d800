"""Test that colours of the pages have enough contrast in both themes (WCAG 2.1, AA)."""

from __future__ import annotations

import re

import pytest

from gear.report.page import TEMPLATES

TEXT = ("ink", "soft", "good", "bad", "link")
LINES = tuple(f"s{number}" for number in range(8))


def themes() -> dict[str, dict[str, str]]:
    style = (TEMPLATES / "style.css").read_text()
    light, dark = re.findall(r":root \{([^}]*--bg[^}]*)\}", style)
    plain = dict(re.findall(r"--(\w+): (#\w+)", light))
    return {"light": plain, "dark": plain | dict(re.findall(r"--(\w+): (#\w+)", dark))}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["bg", "card"])
def test_text_and_lines_stand_out(theme: str, ground: str) -> None:
    colours = themes()[theme]
    for name in TEXT:
        assert contrast(colours[name], colours[ground]) >= 4.5, name
    for name in (*LINES, "axis"):
        assert contrast(colours[name], colours[ground]) >= 3, name


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)
