"""Time how long training waits for a save, and the whole save: `python benchmarks/saves.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from gear.core.host_config import HostConfig
from gear.training.checkpoint_manager import CheckpointManager
from gear.training.config import TrainConfig
from gear.training.distributed import join_process_group
from gear.training.engine import build_engine, update_weights

WIDTH = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6, help="of 17 M weights each (default 6)")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: /tmp)")
    arguments = parser.parse_args()
    context = join_process_group(HostConfig(), 0)
    module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(arguments.layers)))
    engine = build_engine(module, TrainConfig(), context, lr=1e-4, batch=1)
    update_weights(engine, engine(torch.ones(1, WIDTH)).sum(), "model", [])
    waited, whole = [], []
    with TemporaryDirectory(dir=arguments.folder) as folder:
        manager = CheckpointManager(Path(folder) / "run", context)
        for step in range(1, arguments.saves + 1):
            began = time.monotonic()
            manager.begin_save({"model": engine}, {"step": step})
            waited.append(time.monotonic() - began)
            manager.finish_save()
            whole.append(time.monotonic() - began)
        latest = Path(folder) / "run" / f"step-{arguments.saves}"
        size = sum(file.stat().st_size for file in latest.rglob("*") if file.is_file())
        manager.close()
    wait, save = statistics.median(waited), statistics.median(whole)
    print(
        f"{size / 2**30:.2f} GiB: training waits {wait:.2f} s of {save:.2f} s ({wait / save:.0%})"
    )


if __name__ == "__main__":
    main()
