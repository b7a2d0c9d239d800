"""Test the comparison page: one colour per arm, samples side by side, escaped text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gear.report import comparison_page as comparison
from gear.report import comparison_pictures
from gear.report.comparison_pictures import RunPictures
from gear.runs.comparison import Arm, Run, group
from gear.runs.recorded_pictures import Reconstructions, Sample
from tests.unit.report.test_page import LIMIT, Parsed

EVIL = "<script>alert(1)</script>"
SVG = "http://www.w3.org/2000/svg"  # an XML namespace, which is not fetched


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


def page(
    arms: list[Arm],
    stages: list[str],
    found: dict[str, RunPictures] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page of arms with their tables."""
    return comparison.page(arms, comparison.tables(arms, stages), found, notes)


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


def test_the_page_shows_the_tables_that_it_is_given() -> None:
    arms = group([SLOW[0], FAST[0]])
    title, *others = comparison.tables(arms, [])
    text = comparison.page(arms, [replace(title, rows=[["a row made up here"]]), *others])
    assert "<td>a row made up here</td>" in text


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
    text = page(group([SLOW[0], evil]), [EVIL])
    assert text.count("<script") == 1  # the page's own script
    assert text.count("&lt;script&gt;") > 5
    assert "http" not in text.replace('http-equiv="Content-Security', "").replace(SVG, "")


def pictures(arms: list[Arm], size: int = 8, count: int = 3) -> dict[str, RunPictures]:
    """Return images of noise for each run; all runs share the originals."""
    random = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return random.integers(0, 256, (*shape, size, size, 3)).astype(np.uint8)

    originals = noise(count)
    return {
        run.name: RunPictures(
            [
                Sample(pixels, number, f"{EVIL} {number}")
                for number, pixels in enumerate(noise(count))
            ],
            Reconstructions(originals, noise(count)),
        )
        for arm in arms
        for run in arm.runs
    }


def alts(text: str) -> list[str]:
    """Return the alt texts of all images, with plain spaces."""
    return [alt.replace("\xa0", " ") for alt in re.findall(r'<img alt="([^"]*)"', text)]


def test_samples_of_one_seed_are_side_by_side() -> None:
    runs = [
        replace(
            run, records={"fd": {"value": 1.0, "protocol": {"seeds": f"{run.seed} * 1000003 + i"}}}
        )
        for run in (SLOW[0], FAST[0], FAST[1], SLOW[1])
    ]
    arms = group(runs)
    text = page(arms, [], pictures(arms))
    shown = [alt for alt in alts(text) if ", seed" in alt]
    assert len(shown) == 12
    assert [alt.split(", ", 1)[1] for alt in shown[:6]] == [
        f"seed {seed}: recipe {recipe}" for recipe in ("llamagen_repa", "gear") for seed in range(3)
    ]
    assert shown[6].endswith("seed 1000003: recipe llamagen_repa")
    first, other = (text.index(f"Samples of seed {seed}") for seed in (0, 1))
    assert first < other
    rebuilt = [alt for alt in alts(text) if alt.startswith("image 2")]
    assert rebuilt == ["image 2: original", "image 2: recipe llamagen_repa", "image 2: recipe gear"]


def test_captions_and_names_beside_pictures_are_escaped() -> None:
    arms = group([make(EVIL, EVIL, 0, [3, 2, 2, 1, 1]), FAST[0]])
    found = pictures(arms)
    found[EVIL] = replace(found[EVIL], missing=[f"{EVIL} is not in DVC's cache"])
    text = page(arms, [EVIL], found, notes=[EVIL])
    assert text.count("<script") == 1
    parsed = Parsed(text)
    assert not parsed.without_alt
    assert all(link.startswith("data:image/") for link in parsed.links)
    assert "default-src 'none'; img-src data:" in text


def test_a_page_of_many_large_pictures_stays_small() -> None:
    arms = group(
        [
            make(recipe, recipe, seed, [400, 300, 220, 170, 140])
            for seed, recipe in enumerate("abcdef")
        ]
    )
    text = page(arms, [], pictures(arms, size=256, count=16))
    assert len(text) < LIMIT
    assert text.count("<h2>Samples of seed") == 6  # with fewer samples, every seed fits
    assert "More would make this page too large." in text


def test_seeds_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = group(SLOW)
    monkeypatch.setattr(comparison_pictures, "BUDGET", 900)
    text = page(arms, [], pictures(arms))
    assert "Samples of seed 0" in text
    assert "Samples of seed 2" not in text
    assert re.search(r"too large: samples of seeds (1, )?2\.", text)


def test_arms_without_pictures_are_named_and_others_are_shown() -> None:
    arms = group([SLOW[0], FAST[0]])
    found = pictures(arms)
    line = "data/samples of slow-0 is not in DVC's cache: `dvc pull data/samples` brings it"
    found["slow-0"] = RunPictures(missing=[line])
    text = page(arms, [], found)
    assert "`dvc pull data/samples` brings it" in text
    assert {alt.split(": ")[-1] for alt in alts(text)} == {"original", "recipe gear"}
    assert "<img" not in page(arms, [])


def test_reconstructions_of_other_images_are_not_beside_these() -> None:
    arms = group([SLOW[0], FAST[0]])
    found = pictures(arms)
    rebuilt = found["fast-0"].reconstructions
    assert rebuilt
    other = Reconstructions(255 - rebuilt.originals, rebuilt.copies)
    found["fast-0"] = replace(found["fast-0"], reconstructions=other)
    text = page(arms, [], found)
    assert "Not shown, since other images are in the report: recipe gear." in text
    assert not [alt for alt in alts(text) if alt.startswith("image") and "recipe gear" in alt]


def test_equal_curves_are_named() -> None:
    rows = [row | {"loss/l1": row["step"]} for row in SLOW[0].curves["joint"]]
    one, same = (replace(run, curves={"joint": rows}) for run in (SLOW[0], FAST[0]))
    assert comparison.equal_curves(group([one, same])) == (
        "recipe gear equals recipe llamagen_repa in every curve."
    )
    other = [row | {"fd": row["fd"] + 1} for row in rows]
    assert comparison.equal_curves(group([one, replace(same, curves={"joint": other})])) == (
        "recipe gear equals recipe llamagen_repa in loss/l1, loss/ntp."
    )
    assert not comparison.equal_curves(group([one, replace(same, curves={})]))


def test_the_page_says_what_differs_from_what_to_what() -> None:
    third = replace(FAST[1], settings=SLOW[0].settings | {"sample.guidance": 2.0}, name="third")
    (table,) = (
        t
        for t in comparison.tables(group([SLOW[0], FAST[0], third]), [])
        if t.title == "What differs"
    )
    assert table.rows == [
        ["joint.recipe", "llamagen_repa", "llamagen_repa → gear", "same"],
        ["sample.guidance", "-", "same", "- → 2.0"],
    ]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_page_across_sampling_says_so(guidance: float) -> None:
    def measured(run: Run, guidance: float, floor: float) -> Run:
        protocol = {"n": 4, "guidance": guidance}
        records = {"fd": {"value": 9.0, "protocol": protocol}}
        return replace(run, records=records | {"fd_floor": {"value": floor, "protocol": {}}})

    arms = group([measured(SLOW[0], 1.0, 5.0), measured(FAST[0], guidance, 6.0)])
    text = page(arms, [])
    across = guidance != 1.0
    assert ("Samples were drawn with different settings (guidance)" in text) is across
    assert ("All measured under the same protocol" in text) is not across
    assert ("recipe gear (guidance 2)" in text) is across
    assert "<td>fd_floor</td><td>5</td><td>6</td><td>+1</td>" in text
