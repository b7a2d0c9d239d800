"""Test that the site shows what a code host shows, and loads nothing."""

from __future__ import annotations

import re
from types import SimpleNamespace

import griffe
import pytest
import yaml
from mkdocs.exceptions import PluginError

from tests.support.repo import REPO
from tools.docstrings import Docstrings, as_markdown
from tools.site_pages import draw, on_page_content, on_page_markdown, outside, separate_lists


@pytest.mark.parametrize(
    "page",
    [
        '<script async src="https://unpkg.com/mermaid@11/mermaid.min.js">',
        "<link rel='stylesheet' href='//fonts.googleapis.com/css'>",
        '<img alt="" src=https://example.org/a.png>',
        '<style>@import "https://example.org/a.css";</style>',
        "<style>body {background: url(https://example.org/a.png)}</style>",
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_outside_names_what_a_page_would_fetch(page: str) -> None:
    assert len(outside(page)) == 1


@pytest.mark.parametrize(
    "page",
    [
        '<a href="https://arxiv.org/abs/2606.32039">paper</a>',
        '<img src="docs/pictures/report.png"><script src="assets/bundle.js"></script>',
        '<img src="data:image/png;base64,iVBORw0KGgo=">',
        '<link rel="canonical" href="https://example.org/">',
    ],
)
def test_outside_lets_links_and_own_files_pass(page: str) -> None:
    assert outside(page) == []


def test_separate_lists_leaves_items_of_a_list_together() -> None:
    assert separate_lists("Three:\n- one\n- two\n\nEnd") == "Three:\n\n- one\n- two\n\nEnd"


def test_separate_lists_starts_an_item_after_a_paragraph_of_another() -> None:
    assert separate_lists("- one\n\n    more\n- two") == "- one\n\n    more\n\n- two"


def test_separate_lists_leaves_code_alone() -> None:
    code = "```text\ntwo:\n- one\n```"
    assert separate_lists(code) == code


def test_draw_has_every_stage_and_arrow() -> None:
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
    block = (REPO / "docs/architecture.md").read_text().split("```mermaid\n")[1].split("```")[0]
    picture = draw(block)
    assert set(re.findall(r">(\w+)</text>", picture)) == set(stages)
    assert picture.count("<path d=") == block.count("-->") + 1  # one more for the arrow head


def test_a_graph_is_a_picture_on_the_site() -> None:
    page = on_page_markdown("Graph:\n\n```mermaid\nflowchart LR\n  a --> b\n```\n")
    assert "<svg" in page
    assert "```" not in page


def test_a_reference_that_code_hosts_hide_is_shown() -> None:
    assert on_page_markdown("<!-- ::: gear.load_tokenizer -->") == "::: gear.load_tokenizer"


def test_a_page_that_shows_less_than_a_code_host_is_refused() -> None:
    page = SimpleNamespace(markdown="- one\n- two", file=SimpleNamespace(src_uri="docs/x.md"))
    on_page_content("<ul><li>one</li><li>two</li></ul>", page)
    with pytest.raises(PluginError, match=r"docs/x\.md: 1 <li> on the site, 2 on a code host"):
        on_page_content("<ul><li>one - two</li></ul>", page)


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("Sum.\n\n>>> 1 + 1\n2", "Sum.\n\n```pycon\n>>> 1 + 1\n2\n```"),
        (
            "Sum.\n\nx: One.\n  More.\ny: Two.",
            "Sum.\n\nArgs:\n    x: One.\n      More.\n    y: Two.",
        ),
        ("Sum.\n\nNote: slow.", "Sum.\n\nNote: slow."),
        ("d = -2 <z, e>", "d = -2 &lt;z, e>"),
        ("Sum.\n\nRaises:\n    A: if b.", "Sum.\n\nRaises:\n    A: if b."),
    ],
)
def test_docstrings_are_markdown(docstring: str, shown: str) -> None:
    assert as_markdown(docstring, {"x", "y"}, "Args:") == shown


def test_the_comment_of_a_field_is_its_description() -> None:
    extensions = griffe.load_extensions(Docstrings)
    module = griffe.load("gear.tokenizer.quantizers", search_paths=[REPO], extensions=extensions)
    assert module["Quantized.indices"].docstring.value == "(B, L) int64"
