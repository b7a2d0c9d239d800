"""Draw the pipeline of dvc.yaml into docs/architecture.md: `python tools/pipeline_graph.py`.

The edges are the transitive reduction of those of `dvc dag`.
"""

from __future__ import annotations

import re
from pathlib import Path

import networkx as nx
from dvc.repo import Repo

PAGE = Path(__file__).parents[1] / "docs/architecture.md"
BLOCK = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)


def mermaid(repo: Repo) -> str:
    """Return the graph as a Mermaid block, with arrows from writing to reading stages."""
    names = nx.relabel_nodes(repo.index.graph.reverse(), lambda stage: stage.name)
    edges = sorted(nx.transitive_reduction(names).edges)
    lines = [f"  {stage} --> {reader}" for stage, reader in edges]
    return "\n".join(["```mermaid", "flowchart LR", *lines, "```", ""])


def main() -> None:
    text = PAGE.read_text()
    with Repo(str(PAGE.parents[1])) as repo:
        drawn, found = BLOCK.subn(lambda _: mermaid(repo), text)
    if found != 1:
        raise SystemExit(f"{PAGE}: {found} Mermaid blocks, not one")
    PAGE.write_text(drawn)


if __name__ == "__main__":
    main()
