"""Test that the first Ctrl-C lets a training save, and a second one ends it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

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


HANGUP = """
import sys
import time
from pathlib import Path
from gear.training.loop import _catch_signals

caught = _catch_signals()
print("ready", flush=True)
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not caught["signal"]:
    time.sleep(0.05)
print("a line that no terminal shows", flush=True)
print("nor this one", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text(f"saved {caught['signal']}")
"""


def test_a_closed_terminal_lets_a_training_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(sys.executable, [sys.executable, "-c", HANGUP, str(saved)], ENV)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1024)
    os.close(terminal)  # the system sends SIGHUP
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert saved.read_text() == f"saved {int(signal.SIGHUP)}"


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    script = (
        "import signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from gear.training.loop import _catch_signals, _release_signals\n"
        "_catch_signals()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)\n"
        "_release_signals()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENV, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\nTrue\n"
