"""Every tool imports at the versions that work together."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import pytest
from packaging.specifiers import SpecifierSet

TOOLS = [
    "torch",
    "torchvision",
    "deepspeed",
    "dvc.api",
    "dvclive",
    "prefect",
    "great_expectations",
    "evidently",
    "torchmetrics",
    "pyarrow",
]


@pytest.mark.parametrize("name", TOOLS)
def test_it_imports(name: str) -> None:
    importlib.import_module(name)


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
