"""Test that the installed packages are those that the project declares."""

from __future__ import annotations

import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.support.repo import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_installed_version_is_one_that_is_declared(requirement: Requirement) -> None:
    assert version(requirement.name) in requirement.specifier


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("pandas", ">=3.0,<3.1"),
        ("fastapi", ">=0.139,<0.151"),
        ("sqlalchemy", ">=2.0,<2.1"),
        ("prefect", "==3.8.8"),
    ],
)
def test_the_pins_without_which_a_tool_breaks(name: str, allowed: str) -> None:
    assert version(name) in SpecifierSet(allowed)
