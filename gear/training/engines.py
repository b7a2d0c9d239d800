"""DeepSpeed: one engine a module, each with its own AdamW and its own gradient-norm limit."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gear.config import BadInput, Config
from gear.device import pick_device


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def lead(self) -> bool:
        return self.rank == 0


def join_world(config: Config) -> World:
    """Initialise the process group (gloo on CPU, NCCL on GPU) and seed torch."""
    device = pick_device(config)
    cuda = device.type == "cuda"
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")
    import deepspeed
    import deepspeed.ops

    if not cuda:  # this op is compiled at start-up for 50 s and saves nothing on one host
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    for name in ("DeepSpeed", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not dist.is_initialized() and "RANK" not in os.environ:  # not under torchrun: a world of one, which takes no port
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists
        dist.init_process_group("nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="nccl" if cuda else "gloo", verbose=False)
    torch.manual_seed(config.run.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs half a step and hides nothing here
    if cuda:
        torch.cuda.set_device(device)
    return World(dist.get_rank(), dist.get_world_size(), device)


def build_engine(module: nn.Module, config: Config, world: World, *, lr: float, batch: int) -> Any:
    """A DeepSpeed engine of one module: fused AdamW of `train`, clipped on its own norm."""
    import deepspeed

    if batch % world.size:
        raise BadInput(f"a batch of {batch} images does not divide by {world.size} ranks: the ranks' means would weigh images unequally")
    count = sum(p.numel() for p in module.parameters())
    bucket = min(1 << 27, -(-count // (1 << 20)) << 20)  # whole multiples of 2^20: DeepSpeed wants them aligned
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=lr, betas=(0.9, config.train.beta2), weight_decay=config.train.weight_decay, fused=True
    )
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch // world.size,
        "gradient_clipping": config.train.clip,
        # the default buckets are 2 GB a module, allocated (and, deterministic, filled) at every step
        "zero_optimization": {"stage": config.train.zero_stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if config.train.bf16:
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine


def set_lr(engine: Any, lr: float, step: int, warmup: int) -> None:
    """Linear warm-up to `lr`, constant after; a function of the step, so nothing to save."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * min(1.0, (step + 1) / max(1, warmup))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for the module's parameters; backward belongs inside the block."""
    was_training = module.training
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True).train(was_training)


class Average:
    """Exponential moving average of a module's parameters in fp32, outside the engines."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        with _whole(module):
            self.weights = {name: value.detach().float().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move every average a step towards the live weights."""
        with _whole(self.module):
            live = self.module.state_dict()
            torch._foreach_lerp_(list(self.weights.values()), [live[n].float() for n in self.weights], 1 - self.decay)


@contextmanager
def _whole(module: nn.Module) -> Iterator[None]:
    parameters = [p for p in module.parameters() if hasattr(p, "ds_id")]
    if not parameters:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield
