"""Test the rules of `make server worker deploy stop` without a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import server
from gear.core.errors import InputError
from tests.support.toys import free_port


@pytest.mark.parametrize("failure", ["exit code", "Ctrl-C"])
def test_schedules_stay_on_if_a_deployment_fails(
    monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    switched_on: list[Any] = []

    def deploy(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if failure == "Ctrl-C":
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 1, "deployed one", "a warning\nno such flow\n")

    nightly = ("nightly", "nightly")
    monkeypatch.setattr(server, "_require_server", lambda: None)
    monkeypatch.setattr(server, "_pool_type", lambda *_: "process")
    monkeypatch.setattr(server, "_schedules", lambda: {nightly: (1, 2, True)})
    monkeypatch.setattr(server, "_switch_on", switched_on.extend)
    monkeypatch.setattr(subprocess, "run", deploy)
    with pytest.raises((InputError, KeyboardInterrupt)) as failed:
        server.deploy()
    assert switched_on == [nightly]
    assert failure == "Ctrl-C" or str(failed.value) == "deploy: no such flow"


def test_the_server_is_ended_after_the_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    server.SERVICES.mkdir(parents=True)
    for name in ("server", "worker-gpu"):
        (server.SERVICES / f"{name}.pid").touch()
    run = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(2)"],
        env={**os.environ, "PREFECT__FLOW_RUN_ID": "1"},
    )
    ended: list[tuple[str, bool]] = []

    def end(name: str, _: int) -> bool:
        ended.append((name, run.poll() is None))
        return True

    monkeypatch.setattr(server, "_end", end)
    assert server.stop() == "worker-gpu: stopped\nserver: stopped"
    assert ended == [("worker-gpu", True), ("server", False)]
    assert f"for runs to save and report (process {run.pid})" in capsys.readouterr().out


def test_only_a_server_that_answers_changes_the_stored_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    for name in ("API_AUTH_STRING", "SERVER_API_AUTH_STRING", "SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.setenv(f"PREFECT_{name}", "")
    answers = iter([False, False, False, True])  # only the last one is after the start
    monkeypatch.setattr(server, "wait", lambda *_: next(answers))
    before = server.TOML.format(url="http://127.0.0.1:14200/api", secret="gear:a")
    server.CREDENTIALS.write_text(before)
    for target in (server.worker, server.deploy):
        with pytest.raises(InputError, match="no Prefect server at"):
            target()
        assert server.CREDENTIALS.read_text() == before
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "")
    monkeypatch.setattr(server, "_start", lambda *_: 1)
    monkeypatch.setattr(server, "_running", lambda _: 1)
    assert "its password is in prefect.toml" in server.server()
    assert server.CREDENTIALS.read_text() == server.TOML.format(url=url, secret="gear:a")
