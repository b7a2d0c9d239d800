"""Test that the first Ctrl-C lets a training save, and a second one ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import ENV

TRAINING = """
import time
from gear.training.loop import _catch_signals

caught = _catch_signals()
print("ready", flush=True)
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not caught["signal"]:
    time.sleep(0.05)
print("step ends", flush=True)
time.sleep(SECONDS)
print("saved", caught["signal"], flush=True)
"""


@pytest.mark.parametrize(
    ("after", "seconds", "code", "saved"), [(1.5, 20, -2, ""), (0.2, 1, 0, "saved 2\n")]
)
def test_a_second_interrupt_ends_and_one_that_a_launcher_repeats_does_not(
    after: float, seconds: int, code: int, saved: str
) -> None:
    script = TRAINING.replace("SECONDS", str(seconds))
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "step ends\n"
    time.sleep(after)
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=40)
    assert child.returncode == code
    assert output == saved
    assert errors.count("Ctrl-C again ends at once, without saving") == 1
