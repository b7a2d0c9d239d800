"""What a failed stage means to a flow: bad input, stopped, killed, busy or crashed.

Only a crash is worth another try.
"""

from __future__ import annotations

import re

from gear.process import Ended


class StageError(RuntimeError):
    """A child failed. `retry`: whether another try can help."""

    retry = False


class StageBadInput(StageError):
    """Exit code 2: the user's mistake. The same again would fail again."""


class StageStopped(StageError):
    """Exit code 1: a stage stopped on purpose (collapsed codebook, failed gate)."""


class StageKilled(StageError):
    """Ended by a signal: somebody wanted it to end."""


class StageBusy(StageError):
    """Another DVC process works in the checkout, started by hand."""


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
    if code < 0 or code in (130, 137, 143):
        return StageKilled(ended.reason)
    return {2: StageBadInput, 1: StageStopped}.get(code, StageCrashed)(ended.reason)
