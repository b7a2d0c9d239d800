"""Progress lines, curves and DVCLive logs of a training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gear.core.exit_codes import discard_output


class Reporter:
    """Progress for people (a bar on a terminal, lines elsewhere) and logs for tools.

    All of it is volatile: no stage depends on it. Ranks other than zero report nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        first: int,
        steps: int,
        batch: int,
        log: Path,
        earlier: list[dict[str, float]],
        enabled: bool,
    ) -> None:
        """Open the logs of steps `first` to `steps`; `batch` is the number of images a step.

        `earlier`: the curve of the steps before `first`. DVCLive's files are written anew from it,
        because a run that was killed may have left half a line in them, or rows of later steps.
        """
        self.name, self.steps, self.first, self.batch = name, steps, first, batch
        self.enabled = enabled
        self.reader_gone = False  # whether stdout is a pipe that nobody reads any more
        self.last_step = first
        self.last_time = self.start = time.monotonic()
        if not enabled:
            return
        from dvclive import Live

        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log.open("a")
        self.live = Live(
            str(log.with_suffix("")),
            save_dvc_exp=False,
            dvcyaml=None,
            report=None,
        )
        for row in earlier:
            self._log_live(row)
        self.write: Callable[[str], Any] = print
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first, desc=name, unit="step")
            self.write = self.bar.set_postfix_str

    def row(self, row: dict[str, float]) -> None:
        """Show and log one row of the curve."""
        if not self.enabled:
            return
        now, done = time.monotonic(), int(row["step"])
        rate = (done - self.last_step) * self.batch / max(now - self.last_time, 1e-9)
        eta = (self.steps - done) * (now - self.start) / max(done - self.first, 1)
        self.last_step, self.last_time = done, now
        short = " ".join(
            f"{key.split('/')[-1]} {value:.4g}" for key, value in row.items() if key != "step"
        )
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.write(short)
        else:
            progress = f"{self.name} {done}/{self.steps} {short}"
            self._print(f"{progress} | {rate:.0f} images/s, {eta:.0f} s left")
        self.log.write(json.dumps({**row, "images_per_s": rate}) + "\n")
        self.log.flush()
        self._log_live(row)
        self.live.make_summary()

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self.reader_gone = True
            discard_output()

    def _log_live(self, row: dict[str, float]) -> None:
        self.live.step = int(row["step"])
        for key, value in row.items():
            if key != "step":
                self.live.log_metric(key, value)

    def close(self) -> None:
        """End the bar and the logs."""
        if not self.enabled:
            return
        if self.bar is not None:
            self.bar.close()
        self.log.close()
        self.live.end()
