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
