"""Test the rules of `make server worker deploy stop` without a server."""

from __future__ import annotations

import subprocess
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
