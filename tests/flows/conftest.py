"""Fixture with a real Prefect server for the flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.prefect_server import serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the environment of a client of the Prefect server that all flow tests share."""
    with serving(tmp_path_factory.mktemp("prefect")) as (env, _):
        yield env
