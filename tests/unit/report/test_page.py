"""Test that the report is escaped, self-contained, small and the same for the same run."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gear.evaluation.metric_protocol import Absent
from gear.report import page
from gear.report.curves import CURVES, curve_charts
from gear.report.figures import class_grid
from gear.report.tokenizer_pictures import Reconstructed, psnr, sections
from gear.tokenizer.config import TokenizerShape
from gear.tokenizer.model import Tokenizer

EVIL = "\"'><script>alert(1)</script>"
COPIES = {
    "memorised": {"value": 0.5, "protocol": {"threshold": 21.3}},
    "memorised_tokens": {"value": 0.25, "protocol": {}},
    "memorised_floor": {"value": 0.01, "protocol": {}},
}
NEAREST = [{"sample": 3, "training_row": 7, "distance": 12.5, "agreement": 0.75}]
NO_ICON = "data:image/png;base64,iVBORw0KGgo="  # without it, a browser would request one
LIMIT = 3 << 20  # size limit of the page in bytes
HEADINGS = ("h1", "h2", "h3")


class Parsed(HTMLParser):
    """Collects what a page would fetch or link to, its tags, and images without a description."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.without_alt: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "img" and not dict(attrs).get("alt"):
            self.without_alt.append(str(attrs))


def tokenizer_of(codes: int) -> Tokenizer:
    shape = {
        "quantizer": "vq",
        "codes": codes,
        "code_dim": 4,
        "base": 8,
        "multipliers": [1, 1, 1],
        "blocks": 1,
        "z_channels": 8,
    }
    return Tokenizer(TokenizerShape.model_validate(shape)).eval()


def reconstructed(count: int, size: int, codes: int) -> Reconstructed:
    random = np.random.default_rng(0)
    originals, copies = random.integers(0, 256, (2, count, size, size, 3)).astype(np.uint8)
    tokens = random.integers(0, codes, (count, (size // 4) ** 2))
    names = [f"{EVIL}{i}" for i in range(count)]
    labels = np.arange(count) % 2
    return Reconstructed(names, labels, originals, tokens, copies, psnr(originals, copies))


def render(
    *,
    count: int = 3,
    size: int = 8,
    codes: int = 8,
    nearest: int = 1,
    charts: list[Any] | None = None,
    **more: float,
) -> str:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (8 * 11, size, size, 3)).astype(np.uint8)
    names = [EVIL, *"bcdefgh"]
    picture = page.data_uri(class_grid(pixels, np.arange(88) % 8, names, columns=11))
    health = {
        "usage": 1.0,
        "perplexity": 3.0,
        "dead": 0,
        "top_mass": {"1": 0.5},
        "histogram": [2, 1, 1],
    }
    details = {
        "warm": health,
        "joint": health,
        "samples": health,
        "support": {},
        "churn": 0.25,
        "temperature": 0.1,
    }
    if charts is None:
        charts = curve_charts([{"step": 1, EVIL: 2.0}, {"step": 2, EVIL: 1.0}])
    return page.render(
        recipe=EVIL,
        manifest={
            "train": 1,
            "val": 1,
            "source": EVIL,
            "size": 8,
            "classes": [EVIL],
            "attribution": EVIL,
        },
        cards=page.cards({"fd": {"value": 12.5, "protocol": {"extractor": EVIL}}}),
        copies=page.copies_section(
            COPIES, NEAREST * nearest, pixels[:nearest], pixels[nearest : 2 * nearest]
        ),
        tokenizer=sections(
            tokenizer_of(codes),
            reconstructed(count, size, codes),
            [EVIL, "b"],
            np.array([0, 0, 1]),
        ),
        condition="caption",
        absent=page.absent_metrics({"rfid": Absent(EVIL).record()}),
        captions_note=page.captions_note(
            {"val_captions_seen": {"value": 3, "protocol": {"n": 40}}}
        ),
        **more,
        agreement=page.agreement_rows(
            {
                f"retrieval_category{part}": {"value": 0.5, "protocol": {"hit": EVIL}}
                for part in ("", "_low", "_high", "_floor")
            }
        ),
        guidance=page.guidance_charts(
            {f"fd@{scale}": {"value": 1.0, "protocol": {}} for scale in (1, 2)}
        ),
        samples=picture,
        charts=[{"name": "joint", "charts": charts}],
        codebook=page.codebook_section(details),
        drift=page.drift_rows(
            {
                "warm to joint": {"distance": 0.2, "threshold": 0.1, "drifted": True},
                "joint to samples": {"distance": 0.3, "threshold": 0.1, "drifted": True},
            }
        ),
        validation={
            "expectations": 1,
            "rows": 2,
            "failed": 1,
            "results": [
                {
                    "expectation": EVIL,
                    "column": "key",
                    "success": False,
                    "unexpected": 30,
                    "rows": [f"train/{EVIL}"],
                }
            ],
        },
        provenance=[("git commit", EVIL)],
        params=EVIL,
    )


@pytest.fixture(scope="module")
def text() -> str:
    return render()


def test_text_from_data_is_escaped_and_nothing_is_fetched(text: str) -> None:
    parsed = Parsed(text)
    assert parsed.tags.count("script") == 1  # the page's own script
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text
    assert NO_ICON in parsed.links
    assert all(link.startswith("data:image/") or link == NO_ICON for link in parsed.links)
    assert not [name for name in parsed.attributes if name.startswith("on")]
    assert "12.5" in text


def test_only_the_pages_own_script_may_run(text: str) -> None:
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    script = re.search("<script>(.*?)</script>", text, re.DOTALL)
    assert policy
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'; img-src data:;")


def test_the_same_run_gives_the_same_page(text: str) -> None:
    rows = [{"step": 1, "fd": 2.0}]
    assert curve_charts(rows) == curve_charts(rows)
    found, model = reconstructed(3, 8, 8), tokenizer_of(8)
    first, second = (sections(model, found, ["a", "b"], np.zeros(2)) for _ in range(2))
    assert first == second


def test_the_page_says_if_its_samples_have_another_guidance_than_the_measured_ones() -> None:
    sentence = "drawn at guidance 2 and no metric is of them"
    assert sentence in render(shown_guidance=2.0, measured_guidance=1.0)
    assert sentence not in render(shown_guidance=2.0, measured_guidance=2.0)


def test_drift_that_joint_training_intends_is_no_alarm() -> None:
    rows = {
        row["name"]: (row["verdict"], row["colour"])
        for row in page.drift_rows(
            {
                name: {"distance": 0.2, "threshold": 0.1, "drifted": True}
                for name in ("warm to joint", "joint to samples")
            }
        )
    }
    assert rows["warm to joint"] == ("changed, as intended", "")
    assert rows["joint to samples"] == ("drifted", "bad")


def test_the_gate_names_the_rows_that_it_refuses(text: str) -> None:
    assert "FAILED" in text
    assert "and others" in text  # 30 rows, of which one is named
    assert "data-docs" not in text


def test_headings_are_in_order_and_pictures_described(text: str) -> None:
    parsed = Parsed(text)
    levels = [int(tag[1]) for tag in parsed.tags if tag in HEADINGS]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert parsed.without_alt == []


def test_the_page_of_a_default_run_is_under_three_megabytes() -> None:
    """Test images of noise, the largest there can be, in the size of tiny and quickstart."""
    names = {name for curve in CURVES for name in curve.lines.values()}
    random = np.random.default_rng(2)
    rows = [{"step": step} | dict.fromkeys(names, random.random()) for step in range(0, 5000, 5)]
    charts = curve_charts(rows) * 3
    text = render(count=512, size=32, codes=512, nearest=24, charts=charts)
    assert len(text.encode()) < LIMIT


def test_the_page_says_what_was_not_computed_and_how_many_captions_are_not_held_out(
    text: str,
) -> None:
    assert "Not computed: rfid (" in text
    assert "3 of 40 validation captions are equal to a caption of the training split" in text
    none = {"val_captions_seen": {"value": 0, "protocol": {"n": 40}}}
    assert page.captions_note(none).endswith("all are held out.")
    assert page.captions_note({}) == ""


def test_a_floor_of_fewer_images_than_samples_says_so_and_has_no_ratio() -> None:
    """A perfect generator would score less than such a distance."""

    def note(**floor: int) -> str:
        records = {
            "fd": {"value": 12.0, "protocol": {"n": 1344}},
            "fd_floor": {"value": 6.0, "protocol": floor},
        }
        return page.cards(records)[0]["floor"]

    assert note(n=1344) == "real images: 6, ratio 2"
    assert note(n=1344, distinct_images=1344) == "real images: 6, 1344 different ones, ratio 2"
    assert note(n=158, distinct_images=158) == "real images: 6, 158 different ones"


def test_the_distance_of_equal_sets_is_0_and_has_no_ratio() -> None:
    floor = {"value": 5.9e-10, "protocol": {}}
    records = {"rfd": {"value": 12.0, "protocol": {}}, "rfd_floor": floor}
    assert page.cards(records)[0]["floor"] == "real images: 0"


def test_seen_captions_have_rows_after_those_of_held_out_ones() -> None:
    record = {"value": 0.5, "protocol": {"hit": "near", "gallery": 158}}
    parts = ("", "_low", "_high", "_floor")
    records = {f"retrieval_own_10%{seen}{p}": record for seen in ("", "_seen") for p in parts}
    rows = page.agreement_rows(records)
    assert [row["captions"] for row in rows] == ["held out", "in the training split too"]
    assert {row["rule"] for row in rows} == {"near (of 158 images)"}


def test_a_similarity_without_a_value_says_why() -> None:
    measured = {name: {"value": 0.5, "protocol": {}} for name in ("cknna", "cka", "spatial")}
    row = {"features": "a", "teacher": "b", **measured, "probe": Absent("two images").record()}
    health = {"usage": 1.0, "perplexity": 3.0, "dead": 0, "top_mass": {}, "histogram": [2, 1]}
    details = {"warm": health, "joint": health, "samples": health, "support": {}, "churn": 0.25}
    section = page.codebook_section({**details, "temperature": 0.1, "representation": [row]})
    assert section["alignment"] == [
        ["a", "b", "0.500", "0.500", "not computed: two images", "0.500"]
    ]
