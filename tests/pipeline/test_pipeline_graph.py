"""Test that the graph in the documentation is that of dvc.yaml."""

from __future__ import annotations

import subprocess
import sys

import networkx as nx
import yaml

from tests.support.repo import REPO

PAGE = "docs/architecture.md"


def test_the_drawn_graph_says_what_reads_what() -> None:
    """Test that dvc.yaml and the drawing have the same paths between stages."""
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
    owner = {
        (out if isinstance(out, str) else next(iter(out))): name
        for name, stage in stages.items()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    }
    graph = nx.DiGraph(
        (writer, name)
        for name, stage in stages.items()
        for dep in stage["deps"]
        for out, writer in owner.items()
        if dep == out or dep.startswith(f"{out}/")
    )
    block = (REPO / PAGE).read_text().split("```mermaid\n")[1].split("```")[0]
    drawn = nx.DiGraph(line.split(" --> ") for line in block.replace("  ", "").splitlines()[1:])
    assert set(nx.transitive_closure(drawn).edges) == set(nx.transitive_closure(graph).edges)


def test_the_script_draws_what_is_there() -> None:
    before = (REPO / PAGE).read_text()
    try:
        subprocess.run([sys.executable, "tools/pipeline_graph.py"], cwd=REPO, check=True)
        assert (REPO / PAGE).read_text() == before
    finally:
        (REPO / PAGE).write_text(before)
