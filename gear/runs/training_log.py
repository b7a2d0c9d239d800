"""Follow the log of a training while it is written.

Every run of a stage writes `.gear/logs/<stage>.jsonl` anew, starting with the rows of the steps
that it resumes after. Partial lines, and rows of steps that are trained again, are skipped.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

Row = dict[str, float]
LONGEST = 1 << 20  # maximum bytes of a line with a row


class TrainingLog:
    """Reads the rows of the newest run in a log, incrementally."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self._rows: list[Row] = []
        self._read = 0  # bytes
        self._rest = b""  # of a line that has no end yet
        self._file = 0  # its inode

    def rows(self) -> list[Row]:
        """Return the rows so far, by increasing step; [] if there is no log."""
        try:
            with self.path.open("rb") as file:
                status = self.path.stat()
                if status.st_ino != self._file or status.st_size < self._read:
                    self._forget()
                    self._file = status.st_ino
                file.seek(self._read)
                new = file.read()
        except OSError:
            self._forget()
            return []
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if len(self._rest) > LONGEST:
            self._rest = b""
        for line in lines:
            row = parse_row(line)
            if row is not None:
                while self._rows and self._rows[-1]["step"] >= row["step"]:
                    self._rows.pop()  # of an earlier run, or of steps that are trained again
                self._rows.append(row)
        return list(self._rows)


def parse_row(line: bytes) -> Row | None:
    """Return the row in a line of a log; None if there is none.

    Values that are not finite numbers are left out. If a killed run left a partial line that the
    next run continued, the row of the next run is returned.

    >>> parse_row(b'{"step": 2, "loss/ntp": 4.5, "fd": NaN}')
    {'step': 2.0, 'loss/ntp': 4.5}
    >>> parse_row(b'{"step": 2, "lo{"step": 1, "fd": 3}'), parse_row(b'{"step": 2, "fd')
    ({'step': 1.0, 'fd': 3.0}, None)
    """
    try:
        found = json.loads(line[max(line.rfind(b"{"), 0) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    row = {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    }
    return row if row.get("step", -1) >= 0 else None


def seconds_per_step(rows: list[Row], batch: int, last: int = 20) -> float | None:
    """Return the seconds a step over the last rows, including measurements; None if unknown.

    batch: images a step. last: number of rows.

    >>> rows = [{"step": 0.0}, {"step": 10.0, "images_per_s": 40.0}]
    >>> seconds_per_step(rows, batch=8)
    0.2
    """
    steps, seconds = 0.0, 0.0
    for before, row in pairwise(rows[-last - 1 :]):
        taken, rate = row["step"] - before["step"], row.get("images_per_s", 0.0)
        if rate > 0:
            steps += taken
            seconds += taken * batch / rate
    return seconds / steps if steps else None
