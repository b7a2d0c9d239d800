"""Exponential moving average of weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

Tensors = dict[str, torch.Tensor]


class EMA:
    """Exponential moving average of a module's parameters and buffers in fp32, outside the engines.

    Under ZeRO-3 each rank averages its own partition of the parameters.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self._averages = {
            name: local_partition(value).detach().float().clone()
            for name, value in named(module).items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Update all averages with the current weights."""
        live = named(self.module)
        torch._foreach_lerp_(
            list(self._averages.values()),
            [local_partition(live[name]).float() for name in self._averages],
            1 - self.decay,
        )

    @property
    def weights(self) -> Tensors:
        """The averages by name. Under ZeRO-3 they are gathered: read it on all ranks."""
        live = named(self.module)
        return {
            name: gather(average, live[name]) if is_partitioned(live[name]) else average
            for name, average in self._averages.items()
        }

    @torch.no_grad()
    def load(self, weights: Tensors) -> None:
        """Set the averages to saved `weights`.

        Raises:
            KeyError, RuntimeError: if one is absent or has another shape.
        """
        live = named(self.module)
        for name, average in self._averages.items():
            value = weights[name]
            if is_partitioned(live[name]):
                value = cut_partition(value, average.numel())
            if value.shape != average.shape:
                raise RuntimeError(f"{name}: {tuple(value.shape)}, not {tuple(average.shape)}")
            average.copy_(value)


def whole_weights(module: nn.Module) -> Tensors:
    """Return a module's weights and buffers by name; under ZeRO-3 all ranks have to ask."""
    return {
        name: gather(local_partition(value).detach(), value)
        if is_partitioned(value)
        else value.detach()
        for name, value in named(module).items()
    }


def named(module: nn.Module) -> Tensors:
    """Return a module's parameters and buffers by name, without copying them."""
    state: Tensors = module.state_dict(keep_vars=True)
    return state


def is_partitioned(value: torch.Tensor) -> bool:
    """Return whether this is a parameter that is partitioned over the ranks (ZeRO-3)."""
    return hasattr(value, "ds_tensor")


def local_partition(value: torch.Tensor) -> torch.Tensor:
    """Return a parameter or buffer, or under ZeRO-3 this rank's flat partition of a parameter."""
    part: torch.Tensor = getattr(value, "ds_tensor", value)
    return part


def gather(part: torch.Tensor, parameter: Any) -> torch.Tensor:
    """Gather the ranks' flat partitions, padded at the end, into the shape of a parameter.

    The parameter has the attributes that ZeRO-3 adds: `ds_numel` and `ds_shape`.
    """
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part)
    whole: torch.Tensor = torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)
    return whole


def cut_partition(whole: torch.Tensor, size: int) -> torch.Tensor:
    """Return this rank's flat partition of a tensor: `size` elements, padded with zeros."""
    part = whole.flatten()[dist.get_rank() * size :][:size]
    return nn.functional.pad(part, (0, size - part.numel()))
