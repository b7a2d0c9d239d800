"""Progress lines, curves and DVCLive logs of a training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gear.core.exit_codes import discard_output

# what people are shown of a row, in this order, and its name there
OF_GENERATOR = {"loss/ntp": "ntp", "fd": "fd", "val/ntp_bits": "bits", "codebook/usage": "usage"}
OF_TOKENIZER = {"loss/l1": "l1", "codebook/usage": "usage", "codebook/perplexity": "perplexity"}
COLUMNS = 79


class Reporter:
    """Progress for people (a bar on a terminal, lines elsewhere) and logs for tools.

    People see a few values in lines of a terminal's width; the log and DVCLive's files have all.
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
        self._print(f"{name}: all values are in {log}")
        self.bar = self.values = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first, desc=name, unit="step", ncols=COLUMNS)
            self.values = tqdm(total=0, bar_format="{desc}", position=1, leave=False)

    def row(self, row: dict[str, float]) -> None:
        """Show and log one row of the curve."""
        if not self.enabled:
            return
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
        if self.bar is not None and self.values is not None:
            self.values.close()
            self.bar.close()
        self.log.close()
        self.live.end()


def headline(row: Mapping[str, float]) -> str:
    """Return the values of a row that people follow a training by.

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
    """Return a time in words.

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
