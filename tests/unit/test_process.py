"""Test that processes end with the one that started them."""

from __future__ import annotations

import subprocess
import sys

from tests.support.commands import ENV
from tests.support.processes import is_alive
from tests.support.wait import wait_until

ORPHAN = """
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
from gear.process import exit_with_dvc
exit_with_dvc()
print("still here", flush=True)
time.sleep(30)
"""


def test_a_stage_whose_dvc_is_gone_at_its_start_ends() -> None:
    """Test a stage that is a child of process 1, which must not be taken for DVC."""
    shell = 'DVC_STAGE=joint "$0" -c "$1" $$ & echo $!'
    done = subprocess.Popen(
        ["sh", "-c", shell, sys.executable, ORPHAN], stdout=subprocess.PIPE, text=True, env=ENV
    )
    assert done.stdout is not None
    orphan = int(done.stdout.readline())
    done.wait(10)
    assert wait_until(lambda: not is_alive(orphan), 15)
    assert "still here" not in done.stdout.read()
