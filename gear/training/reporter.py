"""Progress lines, curves and DVCLive logs of a training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gear.params import Config
from gear.training.distributed import DistributedContext


class Reporter:
    """Progress for people (a bar on a terminal, lines elsewhere) and logs for tools; all of it volatile."""

    def __init__(
        self,
        name: str,
        steps: int,
        config: Config,
        world: DistributedContext,
        log: Path,
        first: int,
    ) -> None:
        self.name, self.steps, self.first, self.lead = name, steps, first, world.is_rank_zero
        self.batch = config.tokenizer.batch if name == "tokenizer" else config.joint.batch
        self.last_step, self.last_time, self.start = first, time.monotonic(), time.monotonic()
        if not self.lead:
            return
        from dvclive import Live

        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log.open("a")
        self.live = Live(
            str(log.with_suffix("")),
            save_dvc_exp=False,
            dvcyaml=None,
            report=None,
            resume=first > 0,
        )
        self.write: Callable[[str], Any] = print
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=first, desc=name, unit="step")
            self.write = self.bar.set_postfix_str

    def row(self, row: dict[str, float]) -> None:
        """Show and log one row."""
        if not self.lead:
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
            print(
                f"{self.name} {done}/{self.steps} {short} | {rate:.0f} images/s, {eta:.0f} s left",
                flush=True,
            )
        self.log.write(json.dumps({**row, "images_per_s": rate}) + "\n")
        self.log.flush()
        self.live.step = done
        for key, value in row.items():
            if key != "step":
                self.live.log_metric(key, value)
        self.live.make_summary()

    def close(self) -> None:
        """End the bar and the logs."""
        if not self.lead:
            return
        if self.bar is not None:
            self.bar.close()
        self.log.close()
        self.live.end()
