"""DeepSpeed engines: one per module, each with its own AdamW and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gear.core.errors import InputError, StageFailed
from gear.training.config import TrainConfig
from gear.training.distributed import DistributedContext
from gear.training.resharding import read_tensors

BUCKET_UNIT = 1 << 20  # bucket sizes are multiples of it, as DeepSpeed expects
LARGEST_BUCKET = 1 << 27


class NonFinite(StageFailed):
    """Raised if a loss or gradient is NaN or infinite, before the weights of its module change.

    keys: keys of the images in this rank's batch.
    """

    def __init__(self, module: str, value: float, keys: list[str], what: str = "loss") -> None:
        super().__init__(f"the {module} {what} is {value}; its weights were not moved")
        self.keys = keys


def share_of(batch: int, ranks: int) -> int:
    """Return the number of images of a batch that each rank processes.

    Raises:
        InputError: if `ranks` does not divide `batch`.
    """
    if batch % ranks:
        raise InputError(
            f"a batch of {batch} images does not divide by {ranks} ranks: "
            "the ranks' means would weigh images unequally"
        )
    return batch // ranks


def accumulation(batch: int, ranks: int, micro_batch: int) -> int:
    """Return the gradient accumulation steps: a rank's share in the fewest equal parts.

    micro_batch: the setting host.micro_batch, most images of a part; 0 for one part.

    Raises:
        InputError: if `ranks` does not divide `batch`.

    >>> accumulation(256, ranks=8, micro_batch=16), accumulation(12, ranks=1, micro_batch=5)
    (2, 3)
    """
    share = share_of(batch, ranks)
    sizes = range(min(micro_batch or share, share), 0, -1)
    return next(share // size for size in sizes if share % size == 0)


def build_engine(
    module: nn.Module,
    train: TrainConfig,
    context: DistributedContext,
    *,
    lr: float,
    batch: int,
    accumulation: int = 1,
    zero_stage: int = 1,
    offload: bool = False,
) -> Any:
    """Return a DeepSpeed engine of one module: fused AdamW, clipped by the norm of its gradient.

    batch: images a step over all ranks. accumulation: gradient accumulation steps.
    offload: keep AdamW's moments in CPU memory (ZeRO 1 to 3).

    Raises:
        InputError: if the number of ranks does not divide `batch`.
    """
    import deepspeed

    share = share_of(batch, context.size)
    count = sum(p.numel() for p in module.parameters())
    # default buckets are 2 GB a module, allocated (and in deterministic mode filled) at every step
    bucket = min(LARGEST_BUCKET, -(-count // BUCKET_UNIT) * BUCKET_UNIT)
    adamw: dict[str, Any] = {"betas": (0.9, train.beta2), "weight_decay": train.weight_decay}
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, fused=True, **adamw)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": share // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.clip,
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
    }
    if offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        settings["zero_force_ds_cpu_optimizer"] = False  # PyTorch's AdamW needs no compiler
    if train.bf16:
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=settings, dist_init_required=False
    )
    engine.peak_lr, engine.adamw = lr, adamw
    engine.checkpoint_engine = tensors_only(engine.checkpoint_engine)
    return engine


def tensors_only(checkpoints: Any) -> Any:
    """Make a DeepSpeed checkpoint engine read only tensors and plain values: files run no code."""

    def load(path: str, map_location: Any = None) -> Any:
        return read_tensors(path, map_location)

    checkpoints.load = load
    return checkpoints


def set_lr(engine: Any, step: int, warmup: int) -> None:
    """Set the learning rate of a step: linear warm-up to the engine's `lr`, constant after."""
    for group in engine.optimizer.param_groups:
        group["lr"] = engine.peak_lr * min(1.0, (step + 1) / max(1, warmup))


def apply_settings(engine: Any) -> None:
    """Apply this run's AdamW settings; a loaded state brings those of the run that saved it."""
    for group in engine.optimizer.param_groups:
        group.update(engine.adamw)


def update_weights(engine: Any, loss: torch.Tensor, module: str, keys: list[str]) -> None:
    """Backpropagate a loss; after the last part of a batch, take an optimizer step.

    Raises:
        NonFinite: if the loss or the gradient is NaN or infinite; no weight has changed then.
    """
    if not torch.isfinite(loss.detach()):
        raise NonFinite(module, loss.item(), keys)
    engine.backward(loss)
    last_part = engine.is_gradient_accumulation_boundary()
    if last_part and engine.zero_optimization_stage() == 0:  # it would step to NaN weights
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise NonFinite(module, norm.item(), keys, "gradient")
        engine._global_grad_norm = norm  # for logs; ZeRO stages set their own
    engine.step()
    if last_part and not engine.was_step_applied():  # ZeRO skips it silently
        raise NonFinite(module, math.nan, keys, "gradient")


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Switch a module to eval mode without gradients for its parameters.

    Run the backward pass of what is computed in the block inside the block too.
    """
    was_training = module.training
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True).train(was_training)
