"""A real Prefect server for the flow tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from toys import REPO

from flows.wait import wait


@contextmanager
def serving(
    home: Path, env: dict[str, str] | None = None
) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A server with its database in `home`, and the environment of its clients; `env`: where an earlier one was."""
    if env is None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        env = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_LOGGING_LEVEL": "INFO",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(REPO),
        }
    port = urlsplit(env["PREFECT_API_URL"]).port
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (home / "server.log").open("a") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert wait(env["PREFECT_API_URL"], 90), (home / "server.log").read_text()[-2000:]
        yield env, process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a client of a server of its own."""
    with serving(tmp_path_factory.mktemp("prefect")) as (env, _):
        yield env
