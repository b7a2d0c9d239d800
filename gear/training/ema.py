"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Exponential moving average of a module's parameters in fp32, outside the engines."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        with _whole(module):
            self.weights = {
                name: value.detach().float().clone() for name, value in module.state_dict().items()
            }

    @torch.no_grad()
    def update(self) -> None:
        """Move all averages a step towards the current weights."""
        with _whole(self.module):
            live = self.module.state_dict()
            torch._foreach_lerp_(
                list(self.weights.values()), [live[n].float() for n in self.weights], 1 - self.decay
            )


@contextmanager
def _whole(module: nn.Module) -> Iterator[None]:
    parameters = [p for p in module.parameters() if hasattr(p, "ds_id")]
    if not parameters:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield
