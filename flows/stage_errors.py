"""Classify the failure of a stage: bad input, stopped, killed, busy or crashed.

Only a crash is retried.
"""

from __future__ import annotations

import errno
import os
import re
import signal

from gear.process import Ended

# the kernel kills what takes too much memory; the others are faults of native code
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)


class StageError(RuntimeError):
    """Raised if a child process failed. `retry`: whether another attempt can help."""

    retry = False


class StageBadInput(StageError):
    """Exit code 2: the user's mistake, or a full disk. A retry would fail again."""


class StageStopped(StageError):
    """Exit code 1: a stage stopped on purpose (collapsed codebook, drifted data)."""


class StageKilled(StageError):
    """Ended on purpose by a signal such as SIGTERM."""


class StageBusy(StageError):
    """Another DVC process, such as one started by hand, is using the checkout."""


class StageCrashed(StageError):
    """Anything else: out of memory, a lost disk, a bug. A retry may help, and training resumes."""

    retry = True


def classify(ended: Ended) -> StageError:
    """Return the error for a failed child: DVC names the exit code of a stage in its last lines."""
    busy = re.search(
        r"'([^']*)' is busy, it is being blocked by:\s*(\(PID \d+\): [^\n]*)", ended.tail
    )
    if busy:
        return StageBusy(
            f"{busy[1]} is in use by another DVC process {busy[2]}: wait for it, "
            "or give this run a name and so a folder of its own"
        )
    stage_codes = re.findall(r"exited with (-?\d+)", ended.tail)
    code = int(stage_codes[-1]) if stage_codes else ended.code
    number = -code if code < 0 else code - 128  # of the signal, if one ended it
    if stage_codes and number in CRASHES:  # without these, DVC itself was killed: on purpose
        return StageCrashed(ended.reason)
    if 0 < number < signal.NSIG:
        return StageKilled(ended.reason)
    if os.strerror(errno.ENOSPC) in ended.tail:
        return StageBadInput(ended.reason)
    # gear itself prints no traceback: the error came before gear could handle it
    if code == 1 and "Traceback (most recent call last)" in ended.tail:
        return StageCrashed(ended.reason)
    return {2: StageBadInput, 1: StageStopped}.get(code, StageCrashed)(ended.reason)
