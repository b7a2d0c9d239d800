"""Publish the progress and main metrics of a training inside a run as an artifact."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

LINE = re.compile(r"(?P<stage>[a-z]+) (?P<done>\d+)/(?P<steps>\d+)  (?P<values>\S.*)")
EVERY = 5.0  # seconds between updates
# lines that DVC prints after every stage
CHATTER = re.compile(
    r"\s*|(Updating|Generating) lock file 'dvc\.lock'|To track the changes with git, run:"
    r"|\s+git add .*|To enable auto staging, run:|\s+dvc config core\.autostage true"
    r"|Use `dvc push` to send your updates to remote storage\."
)


class TrainingProgress:
    """Logs the lines of a child's output, except for DVC's chatter, and publishes training steps.

    A line such as `joint 120/300  ntp 3.2  fd 180` updates an artifact, at most every few seconds.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.artifact: UUID | None = None
        self.stage, self.updated = "", 0.0

    def __call__(self, line: str) -> None:
        """Log a line, and publish the progress of a training in it."""
        if CHATTER.fullmatch(line):
            return
        self.log(line)
        match = LINE.fullmatch(line)
        if match is None or not int(match["steps"]):
            return
        done, steps = int(match["done"]), int(match["steps"])
        now = time.monotonic()
        if match["stage"] == self.stage and done < steps and now - self.updated < EVERY:
            return
        self.updated = now
        try:
            self._publish(match, done, steps)
        except Exception as error:  # such as a lost server: training goes on
            self.log(f"progress was not published: {type(error).__name__}")

    def _publish(self, match: re.Match[str], done: int, steps: int) -> None:
        progress = min(100.0, 100.0 * done / steps)
        text = html.escape(f"{match['stage']}, step {done} of {steps}: {match['values']}")
        if match["stage"] != self.stage:
            made = create_progress_artifact(
                progress, key=f"training-{match['stage']}", description=text
            )
            assert isinstance(made, UUID)
            self.artifact = made
        else:
            assert self.artifact is not None
            update_progress_artifact(self.artifact, progress, description=text)
        self.stage = match["stage"]
