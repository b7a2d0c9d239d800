"""Test that processes end with the one that started them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.commands import ENV
from tests.support.processes import is_alive
from tests.support.wait import wait_until

ORPHAN = """
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
if sys.argv[2] == "DVC_STAGE":
    from gear.process import exit_with_dvc
    exit_with_dvc()
else:
    from flows.child_commands import exit_with_worker
    exit_with_worker()
print("still here", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("variable", ["DVC_STAGE", "PREFECT__FLOW_RUN_ID"])
def test_what_lost_its_parent_at_its_start_ends(variable: str) -> None:
    """Test a child of process 1, which must not be taken for DVC or a Prefect worker."""
    done = subprocess.Popen(
        ["sh", "-c", '"$0" -c "$1" $$ "$2" & echo $!', sys.executable, ORPHAN, variable],
        stdout=subprocess.PIPE,
        text=True,
        env={**ENV, variable: "x"},
    )
    assert done.stdout is not None
    orphan = int(done.stdout.readline())
    done.wait(10)
    assert wait_until(lambda: not is_alive(orphan), 15)
    assert "still here" not in done.stdout.read()
