"""Progress lines and logs of a training."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from gear.core.exit_codes import discard_output
from gear.core.files import replace_file
from gear.training.trackers import TrackedRun, Trackers

# values of a row that are shown, in this order, and their labels
OF_GENERATOR = {"loss/ntp": "ntp", "fd": "fd", "val/ntp_bits": "bits", "codebook/usage": "usage"}
OF_TOKENIZER = {"loss/l1": "l1", "codebook/usage": "usage", "codebook/perplexity": "perplexity"}
COLUMNS = 79


class Reporter:
    """Prints progress (a bar on a terminal, lines elsewhere) and logs to a file and trackers.

    It prints a few values, in lines of a terminal's width; the log and the trackers get all. No
    stage depends on them. Ranks other than zero report nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        first: int,
        steps: int,
        batch: int,
        log: Path,
        trackers: Iterable[str],
        tracked: TrackedRun,
        earlier: list[dict[str, float]],
        enabled: bool,
    ) -> None:
        """Open the logs of steps `first` to `steps`.

        Args:
            name: Name of the stage.
            first: First step of this process.
            steps: Steps of the training.
            batch: Images a step.
            log: File of the rows, as JSON. It is written anew, starting with `earlier`.
            trackers: Names of the trackers.
            tracked: Description of the training for the trackers.
            earlier: Logged rows of the steps before `first`. The log and the trackers are rebuilt
                from them, since they may be of another run, or a killed run may have left half a
                row, or rows of later steps.
            enabled: Whether to report at all.
        """
        self.name, self.steps, self.first, self.batch = name, steps, first, batch
        self.enabled = enabled
        self.reader_gone = False  # whether stdout is a pipe that is no longer read
        self.last_step = first
        self.last_time = self.start = time.monotonic()
        if not enabled:
            return
        start_log(log, earlier)
        self.log = log.open("a")
        self.trackers = Trackers(trackers, tracked, earlier)
        self._print(f"{name}: all values are in {log}")
        self.bar = self.values = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first, desc=name, unit="step", ncols=COLUMNS)
            self.values = tqdm(total=0, bar_format="{desc}", position=1, leave=False)

    def row(self, row: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
        """Show and log a row of the curve. Returns what is logged: row, `measured` and speed."""
        if not self.enabled:
            return row
        now, done = time.monotonic(), int(row["step"])
        rate = (done - self.last_step) * self.batch / max(now - self.last_time, 1e-9)
        eta = (self.steps - done) * (now - self.start) / max(done - self.first, 1)
        self.last_step, self.last_time = done, now
        speed = f"{rate:.0f} images/s"
        if self.bar is not None and self.values is not None:
            self.bar.update(done - self.bar.n)
            self.values.set_description_str(shorten(f"{headline(row)}  {speed}"))
        else:
            ends = f"{speed}, {duration(eta)} left"
            self._print(shorten(f"{self.name} {done}/{self.steps}  {headline(row)}  {ends}"))
        whole = {**row, **measured, "images_per_s": rate}
        self.log.write(json.dumps(whole) + "\n")
        self.log.flush()
        self.trackers.log(whole)
        return whole

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            self.reader_gone = True
            discard_output()

    def close(self) -> None:
        """Close the progress bar, the log and the trackers."""
        if not self.enabled:
            return
        if self.bar is not None and self.values is not None:
            self.values.close()
            self.bar.close()
        self.log.close()
        self.trackers.close(finished=self.last_step == self.steps)


def start_log(log: Path, earlier: list[dict[str, float]]) -> None:
    """Write the log of a run that starts or resumes.

    Args:
        log: `<stage>.jsonl`. If it is of another run, the pictures in `<stage>-samples/` beside it
            are deleted.
        earlier: Rows of the run's earlier steps.
    """
    rows = "".join(json.dumps(row) + "\n" for row in earlier).encode()
    try:
        resumed = bool(rows) and log.read_bytes().startswith(rows)
    except FileNotFoundError:
        resumed = False
    if not resumed:
        shutil.rmtree(log.with_name(f"{log.stem}-samples"), ignore_errors=True)
    replace_file(log, rows)


def headline(row: Mapping[str, float]) -> str:
    """Return the main values of a row as text, for progress lines.

    >>> headline({"step": 3, "loss/ntp": 4.32109, "codebook/usage": 0.5, "loss/l1": 0.1})
    'ntp 4.321  usage 50%'
    >>> headline({"loss/l1": 0.0674, "codebook/perplexity": 431.44})
    'l1 0.0674  perplexity 431.4'
    """
    shown = OF_TOKENIZER if "loss/l1" in row and "loss/ntp" not in row else OF_GENERATOR
    return "  ".join(
        f"{name} {row[key]:.0%}" if name == "usage" else f"{name} {row[key]:.4g}"
        for key, name in shown.items()
        if key in row
    )


def duration(seconds: float) -> str:
    """Return a duration as text, in whole minutes from one minute on.

    >>> duration(59.6), duration(754), duration(7320)
    ('1 min', '13 min', '2 h 2 min')
    >>> duration(12)
    '12 s'
    """
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def shorten(line: str) -> str:
    return line[:COLUMNS]
