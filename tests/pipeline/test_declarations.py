"""Test that dvc.yaml declares exactly what each stage reads: modules, settings and versions."""

from __future__ import annotations

import ast
import importlib.metadata
import tomllib
from pathlib import Path

import pytest
import yaml

from gear.cli import STAGES
from gear.core.settings import UndeclaredParamError
from gear.params import NEUTRAL, Config, flatten, load_for_stage, to_yaml
from tests.support.repo import REPO

PIPELINE = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"]
PINS = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["gear"]["pins"]
DISTRIBUTIONS = importlib.metadata.packages_distributions()
TRAININGS = {"tokenizer", "joint", "generator"}


def module_file(name: str) -> Path | None:
    """Return the file of a gear module, or None if the name is no module."""
    path = REPO / Path(*name.split(".")).with_suffix(".py")
    return path if name.startswith("gear.") and path.exists() else None


def imported_by(file: Path) -> set[Path]:
    """Return the gear modules that one file names in its imports, lazy ones included."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {path for name in names if (path := module_file(name))}


def needed_by(stage: str) -> set[str]:
    """Return the modules that a stage imports, directly or not, and that can change its results.

    The command line, params.py, paths.py, process.py and every *config.py change no result.
    Trainings use evaluation only to log the FD curve, so it is not followed there.
    """
    needed: set[Path] = set()
    waiting = [REPO / "gear" / "stages" / f"{stage}.py"]
    while waiting:
        file = waiting.pop()
        beside = stage in TRAININGS and file.parent.name == "evaluation"
        if file in needed or file.parent == REPO / "gear" or beside:
            continue
        needed.add(file)
        waiting += imported_by(file)
    return {str(file.relative_to(REPO)) for file in needed if not file.name.endswith("config.py")}


def code_deps(stage: str) -> set[str]:
    return {dep for dep in PIPELINE[stage]["deps"] if dep.startswith("gear/")}


def covers(dep: str, module: str) -> bool:
    return module == dep or module.startswith(f"{dep}/")


def test_pipeline_has_one_stage_per_stage_command() -> None:
    assert list(PIPELINE) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_every_module_it_imports(stage: str) -> None:
    missing = {m for m in needed_by(stage) if not any(covers(dep, m) for dep in code_deps(stage))}
    assert missing == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_covers_nothing(stage: str) -> None:
    needed = needed_by(stage)
    assert {dep for dep in code_deps(stage) if not any(covers(dep, m) for m in needed)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_declared_params_are_settings_that_change_results(stage: str) -> None:
    settings = flatten(Config().model_dump(mode="json"))
    declared = [entry for entry in PIPELINE[stage]["params"] if isinstance(entry, str)]
    unknown = [d for d in declared if not any(s == d or s.startswith(f"{d}.") for s in settings)]
    assert unknown == []
    assert not [name for name in declared if name.split(".")[0] in NEUTRAL]


@pytest.mark.parametrize("stage", PIPELINE)
def test_no_stage_depends_on_a_part_of_an_output(stage: str) -> None:
    """Test what breaks `dvc exp run` if an output is restored and the committed one not cached."""
    outputs = [
        next(iter(out)) if isinstance(out, dict) else out
        for s in PIPELINE.values()
        for out in s["outs"]
    ]
    parts = [dep for dep in PIPELINE[stage]["deps"] for out in outputs if dep.startswith(f"{out}/")]
    assert parts == []


def pinned_packages_of(stage: str) -> set[str]:
    """Return the pinned packages that a stage's modules import, lazily or not."""
    used: set[str] = set()
    for module in needed_by(stage):
        for node in ast.walk(ast.parse((REPO / module).read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for name in names:
                used |= {normalised(d) for d in DISTRIBUTIONS.get(name.split(".")[0], ())}
    return used & PINS.keys()


def normalised(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


@pytest.mark.parametrize("stage", STAGES)
def test_stage_declares_the_versions_of_the_packages_it_imports(stage: str) -> None:
    entries = [entry for entry in PIPELINE[stage]["params"] if isinstance(entry, dict)]
    declared = {name.removeprefix("tool.gear.pins.") for name in entries[0]["pyproject.toml"]}
    # reading Parquet is exact in every version, so only stages that write it depend on pyarrow
    exact = set() if stage in ("ingest", "sample") else {"pyarrow"}
    assert declared == pinned_packages_of(stage) - exact


@pytest.mark.parametrize("package", PINS)
def test_pin_is_the_installed_and_the_constrained_version(package: str) -> None:
    constraints = dict(
        line.split("==")
        for line in (REPO / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    constrained = {normalised(name): version for name, version in constraints.items()}
    assert PINS[package] == importlib.metadata.version(package)
    assert PINS[package] == constrained[package]


def test_reading_an_undeclared_param_fails_at_that_moment(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(to_yaml(Config()))
    config = load_for_stage("tokenizer", params, REPO / "dvc.yaml")
    assert config.data.flip
    assert config.host.device == "auto"
    with pytest.raises(UndeclaredParamError, match=r"DataConfig\.limit"):
        _ = config.data.limit


def test_pipeline_file_is_readable() -> None:
    lines = (REPO / "dvc.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 180
    assert sum(len(code_deps(stage)) for stage in STAGES) <= 90
