"""Test that a rank waits for the others' results as long as host.rank_timeout, not longer."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from gear.params import Config
from gear.training.distributed import DistributedContext
from tests.support.commands import ENV

SECONDS = 3
# As on GPUs, the process group is not gloo's, so that results need a group on the CPU. Rank one
# shares its first result and then hangs.
SHARING = f"""
import sys, time
import torch.distributed as dist
from gear.core.host_config import HostConfig
from gear.core.ranks import join_ranks

rank = int(sys.argv[1])
store = "file://" + sys.argv[2]
dist.init_process_group("cpu:gloo", init_method=store, rank=rank, world_size=2)
ranks = join_ranks(HostConfig(rank_timeout={SECONDS}))


def compute(part):
    if part == 3:
        time.sleep(600)
    return part


for result in ranks.map(compute, range(4)):
    print(result, flush=True)
"""


def test_a_rank_waits_for_results_as_long_as_the_timeout(tmp_path: Path) -> None:
    zero, one = (
        subprocess.Popen(
            [sys.executable, "-c", SHARING, rank, str(tmp_path / "store")],
            env={**ENV, "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    )
    try:
        assert zero.stdout is not None
        assert [zero.stdout.readline(), zero.stdout.readline()] == ["0\n", "1\n"]
        began = time.monotonic()
        _, errors = zero.communicate(timeout=60)
        assert time.monotonic() - began > SECONDS / 2
        assert "Timed out" in errors
    finally:
        for process in (zero, one):
            process.kill()
            process.communicate()


def test_a_joined_training_has_the_timeout_of_its_settings(
    world: DistributedContext, tiny: Config
) -> None:
    assert world.timeout == timedelta(seconds=tiny.host.rank_timeout)
