"""DeepSpeed engines: one per module, each with its own AdamW and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gear.core.errors import InputError
from gear.params import Config
from gear.training.distributed import DistributedContext


def build_engine(
    module: nn.Module, config: Config, world: DistributedContext, *, lr: float, batch: int
) -> Any:
    """A DeepSpeed engine of one module: fused AdamW of `train`, clipped on its own norm."""
    import deepspeed

    if batch % world.size:
        raise InputError(
            f"a batch of {batch} images does not divide by {world.size} ranks: the ranks' means would weigh images unequally"
        )
    count = sum(p.numel() for p in module.parameters())
    bucket = min(
        1 << 27, -(-count // (1 << 20)) << 20
    )  # whole multiples of 2^20: DeepSpeed wants them aligned
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=lr,
        betas=(0.9, config.train.beta2),
        weight_decay=config.train.weight_decay,
        fused=True,
    )
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch // world.size,
        "gradient_clipping": config.train.clip,
        # the default buckets are 2 GB a module, allocated (and, deterministic, filled) at every step
        "zero_optimization": {
            "stage": config.host.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if config.train.bf16:
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=settings, dist_init_required=False
    )
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
