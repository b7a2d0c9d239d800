"""Test `make server worker deploy stop` with an auth string, on SQLite and PostgreSQL.

Tests on PostgreSQL are marked `postgres`.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support import postgres
from tests.support.processes import is_alive
from tests.support.repo import REPO
from tests.support.toys import free_port, toy
from tests.support.wait import wait_until

SECRET = "somebody:a-secret"


@dataclass(frozen=True)
class Stack:
    """A toy checkout with a server that was started by `flows.server`."""

    folder: Path
    env: dict[str, str]
    database: str  # PostgreSQL's address; empty for SQLite

    def services(self, what: str, **env: str) -> tuple[int, str]:
        """Run `python -m flows.server WHAT`; return its exit code and output."""
        command = [sys.executable, "-m", "flows.server", what]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=180,
        )
        return done.returncode, done.stdout + done.stderr

    def prefect(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path: str, body: dict[str, Any] | None = None, secret: str = SECRET) -> Any:
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.env['PREFECT_API_URL']}/{path}", data, headers if secret else {}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def processes(self) -> dict[str, int]:
        return {
            file.stem: int(file.read_text().split()[0])
            for file in (self.folder / ".gear/services").glob("*.pid")
        }


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = toy(tmp_path_factory.mktemp("stack") / "c", one="sleep 2")
    (folder / "flows").symlink_to(REPO / "flows")
    (folder / "prefect.yaml").symlink_to(REPO / "prefect.yaml")
    env = {
        **os.environ,
        "PREFECT_HOME": str(folder / ".gear/prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_API_AUTH_STRING": SECRET,
        "PREFECT_API_AUTH_STRING": SECRET,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(REPO),
    }
    with postgres.cluster() if request.param == "postgres" else nullcontext("") as database:
        made = Stack(
            folder,
            env | ({"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}),
            database,
        )
        code, output = made.services("worker")
        assert code == 2
        assert output.startswith("no Prefect server at")
        assert "make server" in output
        assert output.count("\n") == 1
        code, output = made.services("server")
        assert code == 0, output
        try:
            yield made
        finally:
            made.services("stop")


def test_a_server_makes_a_password_and_other_origins_may_not_ask(tmp_path: Path) -> None:
    folder = toy(tmp_path / "c", one="true")
    (folder / "flows").symlink_to(REPO / "flows")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    url = f"http://127.0.0.1:{free_port()}/api"
    env |= {"PREFECT_HOME": str(folder / ".gear/prefect"), "PREFECT_API_URL": url}
    env |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(REPO)}
    made = Stack(folder, env, "")
    code, output = made.services("server")
    try:
        assert code == 0, output
        assert "its password is in prefect.toml" in output
        assert (folder / "prefect.toml").stat().st_mode & 0o777 == 0o600
        secret = (folder / "prefect.toml").read_text().split('auth_string = "')[1].split('"')[0]
        with pytest.raises(urllib.error.HTTPError) as refused:
            made.ask("flows/count", {}, "")
        assert refused.value.code == 401
        assert made.ask("flows/count", {}, secret) == 0
        assert made.services("worker")[0] == 0
        assert made.prefect("work-pool", "ls"), "Prefect's own commands find the password"
        for origin, allowed in (("https://evil.example", None), (url.removesuffix("/api"), url)):
            request = urllib.request.Request(f"{url}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request, timeout=20) as answer:
                seen = answer.headers.get("access-control-allow-origin")
            assert seen == (allowed and origin)
    finally:
        made.services("stop")


def test_a_server_asks_for_its_secret_and_is_started_once(stack: Stack) -> None:
    for secret in ("", "somebody:else"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            stack.ask("flows/count", {}, secret)
        assert refused.value.code == 401
    assert stack.ask("flows/count", {}) == 0
    before = stack.processes()
    code, output = stack.services("server")
    assert code == 0
    assert "answers already" in output
    assert stack.processes() == before


def test_a_worker_is_started_once_a_deployment_runs_and_a_schedule_stays_on(stack: Stack) -> None:
    first, second = stack.services("worker"), stack.services("worker")
    assert first[0] == 0
    assert "worker of pool cpu: process" in first[1]
    assert second[0] == 0
    assert second[1].count("runs already") == 2
    assert first[1].split("process ")[1].split(",")[0] in second[1]
    assert {p["name"]: p["concurrency_limit"] for p in stack.ask("work_pools/filter", {})} == {
        "cpu": None,
        "gpu": 1,
    }

    code, output = stack.services("deploy")
    assert code == 0, output
    assert "deployed nightly to pool gpu; schedule 0 2 * * * UTC off" in output, output
    assert stack.ask("flow_runs/count", {}) == 0, "no schedule is on"
    nightly = stack.ask("deployments/name/pipeline/nightly")
    stack.prefect(
        "deployment", "schedule", "resume", "pipeline/nightly", nightly["schedules"][0]["id"]
    )
    code, output = stack.services("deploy")
    assert code == 0, output
    assert "0 2 * * * UTC on" in output, output
    assert output.count(" on") == 1, output
    assert stack.ask("deployments/count", {}) == 6
    planned = {
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "deployment_id": {"any_": [nightly["id"]]},
        }
    }
    assert wait_until(lambda: stack.ask("flow_runs/filter", planned), 60)
    stack.prefect("deployment", "schedule", "pause", "pipeline/nightly", _only_schedule(stack))

    # two deployments that use the same checkout
    for name in ("pipeline/pipeline", "pipeline/nightly"):
        # an empty name runs in place; any other would make an experiment
        stack.prefect("deployment", "run", name, "-p", 'name=""')

    def done() -> list[dict[str, Any]]:
        runs = stack.ask(
            "flow_runs/filter",
            {"flow_runs": {"start_time": {"is_null_": False}}, "sort": "START_TIME_ASC"},
        )
        return [run for run in runs if run["end_time"]]

    assert wait_until(lambda: len(done()) == 2, 120)
    first_run, second_run = done()
    assert first_run["state"]["type"] == second_run["state"]["type"] == "COMPLETED"
    assert first_run["end_time"] <= second_run["start_time"], "one at a time"
    assert (stack.folder / "one.txt").exists()
    if stack.database:
        assert postgres.count(stack.database, "flow_run") >= 2
        assert postgres.count(stack.database, "deployment") == 6


def _only_schedule(stack: Stack) -> str:
    return stack.ask("deployments/name/pipeline/nightly")["schedules"][0]["id"]


def test_stop_ends_everything_and_a_lost_server_is_no_obstacle(stack: Stack) -> None:
    assert stack.services("reports", GEAR_REPORTS_URL=f"http://127.0.0.1:{free_port()}")[0] == 0
    numbers = stack.processes()
    assert set(numbers) == {"server", "worker-cpu", "worker-gpu", "reports"}
    os.kill(numbers["server"], signal.SIGKILL)
    assert wait_until(lambda: not is_alive(numbers["server"]), 10)
    code, output = stack.services("server")
    assert code == 0, output
    assert stack.ask("deployments/count", {}) == 6, output
    code, output = stack.services("stop")
    assert code == 0
    assert output.count("stopped") == 4
    assert not stack.processes()
    assert not [n for n in numbers.values() if is_alive(n)]
    assert stack.services("stop") == (0, "nothing runs\n")


@pytest.mark.parametrize(
    ("what", "setting"), [("server", "PREFECT_API_URL"), ("reports", "GEAR_REPORTS_URL")]
)
def test_a_port_in_use_and_another_host_give_one_line(
    tmp_path: Path, what: str, setting: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        busy = Stack(tmp_path, {**os.environ, "PYTHONPATH": str(REPO)}, "").services(
            what, **{setting: f"http://127.0.0.1:{port}"}
        )
    assert busy[0] == 2
    assert f"port {port} for " in busy[1]
    assert "in use" in busy[1]
    assert busy[1].count("\n") == 1
    other = Stack(tmp_path, {**os.environ, "PYTHONPATH": str(REPO)}, "").services(
        what, **{setting: "http://elsewhere.example:4200/api"}
    )
    assert other[0] == 2
    assert f"{setting} is http://elsewhere.example" in other[1]
    assert other[1].count("\n") == 1


def test_another_service_on_the_port_is_no_prefect_server(tmp_path: Path) -> None:
    """Test a service that greets before it is asked, and not in HTTP, like an SSH server."""
    with socket.create_server(("127.0.0.1", 0)) as holder:

        def greet() -> None:
            with suppress(OSError):  # closed at the end of the test
                while True:
                    connection, _ = holder.accept()
                    with connection:
                        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                        connection.recv(1000)

        Thread(target=greet, daemon=True).start()
        port = holder.getsockname()[1]
        code, output = Stack(tmp_path, {**os.environ, "PYTHONPATH": str(REPO)}, "").services(
            "server", PREFECT_API_URL=f"http://127.0.0.1:{port}/api"
        )
        holder.shutdown(socket.SHUT_RDWR)
    assert code == 2, output
    assert f"port {port} for the server" in output
    assert output.count("\n") == 1
