"""Hooks of mkdocs.yml: keep the repository's layout, and load nothing from other hosts.

Pages of the repository's root are part of the site next to docs/, so that links between them are
the same on the site, in an editor and on a code host, and `mkdocs build --strict` checks them all.
"""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx
from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parents[1]
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "EXPERIMENTS.md", "SECURITY.md")
REFERENCE = re.compile(r"<!-- (:::.*?) -->", re.DOTALL)
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|data)=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*?\shref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|@import\s[^;]*//[^;]+|url\(\s*["']?(?:https?:)?//[^)]+"""
)
BOX = (116, 30)  # width and height of a stage in a graph
STEP = (150, 46)  # distance between stages
TIP = (
    '<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0 0L6 3L0 6z" fill="currentColor"/></marker></defs>'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of docs/ and the pages of the root under their paths in the repository."""
    docs = Path(config.docs_dir)
    kept = [file for file in files if file.src_dir != config.docs_dir]
    paths = [*ROOT_PAGES, *(f"{docs.name}/{file.src_uri}" for file in files if file not in kept)]
    pages = [
        File(path, str(docs.parent), config.site_dir, config.use_directory_urls) for path in paths
    ]
    return Files([*kept, *pages])


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page with API references expanded, Mermaid graphs drawn and lists separated."""
    shown = MERMAID.sub(lambda block: draw(block[1]), REFERENCE.sub(r"\1", markdown))
    return separate_lists(shown)


def on_page_content(content: str, page: Page, **_: object) -> None:
    """Raise an error if a page shows other lists, tables or code blocks than on a code host."""
    text = page.markdown or ""
    if "\n:::" in text:
        return
    expected = MarkdownIt().enable("table").render(text)
    for tag in ("li", "table", "pre"):
        here, there = (len(re.findall(rf"<{tag}\b", shown)) for shown in (content, expected))
        if here != there:
            raise PluginError(
                f"{page.file.src_uri}: {here} <{tag}> on the site, {there} on a code host: indent "
                "what belongs to an item of a list by four spaces, and fence code in it"
            )


def on_post_build(config: MkDocsConfig) -> None:
    """Raise an error if a page of the site loads something from another host."""
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        if found := outside(page.read_text()):
            raise PluginError(f"{page} loads from elsewhere: {', '.join(found)}")


def outside(page: str) -> list[str]:
    """Return the parts of a page that load something from another host.

    >>> outside('<a href="https://arxiv.org">paper</a> <img src="report.png">')
    []
    >>> outside('<script src="https://unpkg.com/mermaid">')
    ['<script src="https://unpkg.com/mermaid']
    """
    return LOADED.findall(page)


def separate_lists(markdown: str) -> str:
    """Add empty lines before lists, which Markdown requires and code hosts do not.

    >>> print(separate_lists("Three:\\n- one\\n- two\\n- three"))
    Three:
    <BLANKLINE>
    - one
    - two
    - three
    """
    starts = set()
    blocks = 0  # blocks in the previous list item
    for token in MarkdownIt().enable("table").parse(markdown):
        if token.type in ("bullet_list_open", "ordered_list_open"):
            blocks = 2
        elif token.type == "list_item_open" and token.map:
            if blocks > 1:
                starts.add(token.map[0])
            blocks = 0
        elif token.type.endswith("_open") or token.type in ("fence", "code_block"):
            blocks += 1
    lines = markdown.split("\n")
    gaps = {n for n in starts if n and lines[n - 1].strip() and lines[n][:1].strip()}
    return "\n".join(("\n" if n in gaps else "") + line for n, line in enumerate(lines))


def draw(graph: str) -> str:
    """Return a Mermaid flowchart of plain arrows as SVG, columns from left to right."""
    edges = re.findall(r"^\s*(\w+) --> (\w+)$", graph, re.MULTILINE)
    place = positions(nx.DiGraph(edges))
    arrows = [_arrow(*place[writer], *place[reader]) for writer, reader in edges]
    boxes = [_box(name, x, y) for name, (x, y) in place.items()]
    width, height = (max(side) for side in zip(*place.values(), strict=True))
    size = f"0 0 {width + BOX[0]} {height + BOX[1]}"
    label = "; ".join(f"{writer} to {reader}" for writer, reader in edges)
    return (
        f'<svg viewBox="{size}" role="img" aria-label="{label}">'
        f"{TIP}{''.join(arrows + boxes)}</svg>\n"
    )


def positions(graph: nx.DiGraph) -> dict[str, tuple[int, int]]:
    """Return the corner of each node: in the column after its inputs, with centred rows."""
    columns = list(nx.topological_generations(graph))
    highest = max(map(len, columns))
    return {
        name: (column * STEP[0], (2 * row + highest - len(names)) * STEP[1] // 2)
        for column, names in enumerate(columns)
        for row, name in enumerate(sorted(names))
    }


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    start, end, middle = x1 + BOX[0], x2 - 3, BOX[1] // 2
    bend = (start + end) // 2
    path = f"M{start} {y1 + middle} C{bend} {y1 + middle} {bend} {y2 + middle} {end} {y2 + middle}"
    return f'<path d="{path}" fill="none" stroke="currentColor" marker-end="url(#tip)"/>'


def _box(name: str, x: int, y: int) -> str:
    text = f'x="{x + BOX[0] // 2}" y="{y + 19}" text-anchor="middle" font-size="14"'
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{BOX[0] - 2}" height="{BOX[1] - 2}" rx="4"'
        f' fill="none" stroke="currentColor"/><text {text} fill="currentColor">{name}</text>'
    )
