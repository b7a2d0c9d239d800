"""dvc.yaml declares what each stage reads: every module it imports, every params section it looks at."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from gear.cli import STAGES

REPO = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
# the command line and the names of files: a change there that matters changes dvc.yaml's cmd or outs
ELSEWHERE = {"gear/cli.py", "gear/__main__.py", "gear/__init__.py", "gear/paths.py"}


def imports(file: Path) -> set[Path]:
    """The gear modules that a file imports, directly or through others, itself included."""
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for node in ast.walk(ast.parse(one.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                path = REPO / Path(*name.split(".")).with_suffix(".py")
                if name.startswith("gear.") and path.exists():
                    waiting.append(path)
    return seen


def test_every_stage_is_in_the_pipeline_and_the_other_way_round() -> None:
    assert list(PIPELINE) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_module_it_imports_and_on_no_other(stage: str) -> None:
    declared = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("gear/")]
    needed = {
        str(p.relative_to(REPO)) for p in imports(REPO / "gear" / "stages" / f"{stage}.py")
    } - ELSEWHERE
    missing = {
        p for p in needed if not any(p == dep or p.startswith(dep + "/") for dep in declared)
    }
    assert not missing
    idle = {dep for dep in declared if not any(p == dep or p.startswith(dep + "/") for p in needed)}
    assert not idle


@pytest.mark.parametrize(
    "file", ["params.yaml", *sorted(p.name for p in (REPO / "presets").glob("*.yaml"))]
)
@pytest.mark.parametrize("stage", STAGES)
def test_params_named_in_the_pipeline_stand_in_every_preset(stage: str, file: str) -> None:
    """DVC refuses to run a stage whose parameter is not in the file, even where it has a default."""
    params = yaml.safe_load(
        ((REPO if file == "params.yaml" else REPO / "presets") / file).read_text()
    )
    for name in PIPELINE[stage]["params"]:
        found = params
        for part in name.split("."):
            assert part in found, name
            found = found[part]
