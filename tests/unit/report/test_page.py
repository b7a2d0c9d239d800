"""The report: escaped, self-contained, the same bytes for the same run."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from gear.report import page
from gear.report.curves import curve_charts
from gear.report.figures import class_grid

EVIL = "<script>alert(1)</script>"
COPIES = {
    "memorised": {"value": 0.5, "protocol": {"threshold": 21.3}},
    "memorised_tokens": {"value": 0.25, "protocol": {}},
    "memorised_floor": {"value": 0.01, "protocol": {}},
}
NEAREST = [{"sample": 3, "training_row": 7, "distance": 12.5, "agreement": 0.75}]


class Sources(HTMLParser):
    """Collects what a page would fetch or link to, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def render(**more: float) -> str:
    pixels = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    picture = page.data_uri(class_grid(pixels, np.array([0, 1]), [EVIL, "b"], columns=2))
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
            COPIES, NEAREST, class_grid(pixels, np.array([0, 1]), ["a", "b"], 2)
        ),
        condition="caption",
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
        pairs=picture,
        charts=[
            {
                "name": "joint",
                "charts": curve_charts([{"step": 1, EVIL: 2.0}, {"step": 2, EVIL: 1.0}]),
            }
        ],
        codebook=page.codebook_section(details),
        drift=[("warm to joint", {"distance": 0.2, "threshold": 0.1, "drifted": True})],
        validation={
            "expectations": 1,
            "rows": 2,
            "failed": 0,
            "results": [{"expectation": EVIL, "column": "key", "success": True}],
        },
        provenance=[("git commit", EVIL)],
        params=EVIL,
    )


def test_text_from_data_is_escaped_and_nothing_is_fetched() -> None:
    text = render()
    parsed = Sources()
    parsed.feed(text)
    assert "script" not in parsed.tags
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert all(
        link.startswith("data:image/png") or not link.startswith(("http", "//"))
        for link in parsed.links
    )
    assert "12.5" in text
    assert "drifted" in text


def test_the_same_run_gives_the_same_page() -> None:
    assert render() == render()


def test_the_page_says_if_its_samples_have_another_guidance_than_the_measured_ones() -> None:
    sentence = "drawn at guidance 2 and no metric is of them"
    assert sentence in render(shown_guidance=2.0, measured_guidance=1.0)
    assert sentence not in render(shown_guidance=2.0, measured_guidance=2.0)
