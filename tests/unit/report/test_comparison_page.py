"""The comparison's page: one colour an arm, and escaped text."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from gear.report import comparison_page as comparison
from gear.runs.comparison import Run, group

EVIL = "<script>alert(1)</script>"
SVG = "http://www.w3.org/2000/svg"  # a name, not an address


STEPS = np.arange(0.0, 401.0, 100.0)


def make(name: str, recipe: str, seed: int, fd: list[float], **fields: object) -> Run:
    settings = {"run.seed": seed, "joint.recipe": recipe}
    records = {"fd": {"value": fd[-1], "protocol": {"n": 4, "seeds": f"{seed} * 2"}}}
    curves = {
        "joint": [
            {"step": float(s), "fd": v, "loss/ntp": 1.0} for s, v in zip(STEPS, fd, strict=True)
        ]
    }
    return replace(Run(name, "c" * 40, settings, "code", records, curves=curves), **fields)


SLOW = [
    make(f"slow-{i}", "llamagen_repa", i, [400, 300, 220 + 9 * i, 170, 140 + 12 * i])
    for i in range(3)
]


FAST = [make(f"fast-{i}", "gear", i, [400, 210 + 20 * i, 140 + 5 * i, 110, 90]) for i in range(3)]


def test_an_arm_has_one_colour_in_every_chart() -> None:
    other = replace(
        FAST[0], curves={"joint": [row | {"loss/l1": 1.0} for row in FAST[0].curves["joint"]]}
    )
    fd, l1 = (
        next(c for c in comparison.charts(group([SLOW[0], other])) if title in c)
        for title in ("FD of fresh samples", "<figcaption>L1<")
    )
    for chart in (fd, l1):
        assert '<polyline class="s1"' in chart
        assert "recipe gear" in chart
    assert re.search('class="s0"[^>]* points=""', l1)
    assert "recipe llamagen_repa: none" in l1


def test_a_bound_that_is_no_number_is_a_word() -> None:
    below = [make(f"below-{i}", "gear", i, [100, 90, 80, 70, 60]) for i in range(2)]
    texts = [table.text() for table in comparison.tables(group([*SLOW, *below]), [])]
    assert any("at once to at once" in text for text in texts)
    assert not any("inf" in text for text in texts)
    assert any(
        "not in 400" in t and "not reached to not reached" in t
        for t in (x.text() for x in comparison.tables(group([*below, *SLOW]), []))
    )


def test_text_from_data_is_escaped_on_the_page() -> None:
    evil = make(EVIL, EVIL, 0, [3, 2, 2, 1, 1], health={EVIL: 1.0}, seconds={EVIL: 1.0})
    evil = replace(evil, curves={"joint": [row | {EVIL: 1.0} for row in evil.curves["joint"]]})
    text = comparison.page(group([SLOW[0], evil]), [EVIL])
    assert text.count("<script") == 1  # the page's own
    assert text.count("&lt;script&gt;") > 5
    assert "http" not in text.replace('http-equiv="Content-Security', "").replace(SVG, "")
