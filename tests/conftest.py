"""Fixtures of all tests."""

from __future__ import annotations

import pytest

from gear import params


@pytest.fixture(scope="session")
def tiny() -> params.Config:
    """The settings of the tiny preset."""
    return params.load_preset("tiny")
