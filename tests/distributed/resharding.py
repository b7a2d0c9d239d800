"""Save states of every ZeRO stage, or resume from them in every stage, under torchrun.

torchrun ... tests/distributed/resharding.py save FOLDER      # save states after 3 steps
torchrun ... tests/distributed/resharding.py go-on FOLDER N   # resume states of N ranks, 2 steps
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from gear.training.checkpoint_manager import CheckpointManager
from gear.training.distributed import DistributedContext, join_process_group
from gear.training.ema import EMA
from gear.training.engine import build_engine
from tests.distributed.accumulation import IMAGES, STEPS, joint_step, train, weights
from tests.support.joint import small

STAGES = (0, 1, 2, 3)
SAVED = 3


def idle(stage: int, world: DistributedContext, seed: int) -> Any:
    """Return an engine that never steps, like that of a discriminator before it joins."""
    torch.manual_seed(seed)
    module = torch.nn.Linear(7, 3)
    return build_engine(module, small().train, world, lr=1e-3, batch=IMAGES, zero_stage=stage)


def save(folder: Path, world: DistributedContext) -> None:
    for stage in STAGES:
        step = joint_step("vq", stage, 1, world)
        train(step, "vq", range(SAVED), 1, world)
        manager = CheckpointManager(folder / f"{stage}-{world.size}", world)
        engines = {**step.engines, "idle": idle(stage, world, seed=5)}
        manager.save(engines, {"step": SAVED})
        manager.close()


def go_on(folder: Path, ranks: int, world: DistributedContext) -> None:
    results = {}
    for saved in STAGES:
        for stage in STAGES:
            step = joint_step("vq", stage, 1, world)
            manager = CheckpointManager(folder / f"{saved}-{ranks}", world)
            waiting = idle(stage, world, seed=6)
            assert manager.load({**step.engines, "idle": waiting})
            manager.close()
            torch.manual_seed(5)
            expected = torch.nn.Linear(7, 3).state_dict()
            found = EMA(waiting.module, 0.0).weights
            assert all(torch.equal(found[name], expected[name]) for name in expected)
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
