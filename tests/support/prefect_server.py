"""Run a real Prefect server and query its API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.wait_for_server import wait
from tests.support.repo import REPO
from tests.support.toys import free_port


@contextmanager
def serving(
    home: Path, env: dict[str, str] | None = None
) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """Run a server with its database in `home`; yield its clients' environment and its process.

    `env` is the environment of an earlier server, whose address is used again.
    """
    if env is None:
        env = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
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


def post(server: dict[str, str], path: str, body: dict[str, Any]) -> Any:
    data = json.dumps(body).encode()
    return answer(
        urllib.request.Request(
            f"{server['PREFECT_API_URL']}/{path}", data, {"Content-Type": "application/json"}
        )
    )


def answer(request: urllib.request.Request) -> Any:
    """Return the server's answer; repeat at 503, a busy database, as Prefect's own clients do."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def latest(server: dict[str, str], flow: str, count: int) -> list[dict[str, Any]]:
    """Return the artifacts by key of the last runs of a flow, the newest run first."""
    wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": count}
    runs = post(server, "flow_runs/filter", wanted)
    found = [
        post(server, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [r["id"]]}}})
        for r in runs
    ]
    return [{a["key"]: a["data"] for a in one} for one in found]
