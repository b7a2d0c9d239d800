"""Run under torchrun: save states of every ZeRO stage, or go on from them in every stage.

torchrun ... tests/distributed/resharding.py save FOLDER      # of this number of ranks, after 3 steps
torchrun ... tests/distributed/resharding.py go-on FOLDER N   # from the states of N ranks, 2 steps
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gear.training.checkpoint_manager import CheckpointManager
from gear.training.distributed import DistributedContext, join_process_group
from tests.distributed.accumulation import STEPS, joint_step, train, weights
from tests.support.joint import small

STAGES = (0, 1, 2, 3)
SAVED = 3


def save(folder: Path, world: DistributedContext) -> None:
    for stage in STAGES:
        step = joint_step("vq", stage, 1, world)
        train(step, "vq", range(SAVED), 1, world)
        manager = CheckpointManager(folder / f"{stage}-{world.size}", world)
        manager.save(step.engines, {"step": SAVED})
        manager.close()


def go_on(folder: Path, ranks: int, world: DistributedContext) -> None:
    results = {}
    for saved in STAGES:
        for stage in STAGES:
            step = joint_step("vq", stage, 1, world)
            manager = CheckpointManager(folder / f"{saved}-{ranks}", world)
            assert manager.load(step.engines)
            manager.close()
            train(step, "vq", range(SAVED, STEPS), 1, world)
            results[f"{saved}-{ranks} to {stage}-{world.size}"] = weights(step)
    if world.is_rank_zero:
        torch.save(results, folder / f"{ranks}-to-{world.size}.pt")


if __name__ == "__main__":
    action, folder = sys.argv[1], Path(sys.argv[2])
    world = join_process_group(small().host, seed=0)
    if action == "save":
        save(folder, world)
    else:
        go_on(folder, int(sys.argv[3]), world)
