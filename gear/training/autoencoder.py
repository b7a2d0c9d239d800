"""Update of the tokenizer and of the discriminator (updates 1 and 2 of a GEAR step)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gear.core.errors import StageFailed
from gear.core.model_folder import load_weights
from gear.encoders.efficientnet import build_encoder
from gear.losses.adversarial import (
    PatchDiscriminator,
)
from gear.losses.perceptual import EarlyFeaturesLoss, LpipsLoss
from gear.params import Config
from gear.training.distributed import DistributedContext
from gear.training.engine import build_engine

Losses = dict[str, torch.Tensor]


class NonFinite(StageFailed):
    """A loss is NaN or infinite; raised before its module's weights move. `keys`: this rank's images."""

    def __init__(self, module: str, value: float, keys: list[str]) -> None:
        super().__init__(f"the {module} loss is {value}; its weights were not moved")
        self.keys = keys


def perceptual_loss(
    config: Config, world: DistributedContext
) -> EarlyFeaturesLoss | LpipsLoss | None:
    """LPIPS where its weights are named, else the packaged encoder's loss; None where its weight is 0."""
    if not config.loss.perceptual:
        return None
    loss = (
        LpipsLoss(config.loss.vgg16)
        if config.loss.vgg16.path
        else EarlyFeaturesLoss(build_encoder())
    )
    return loss.to(world.device)


def discriminator_for(
    config: Config,
    world: DistributedContext,
    *,
    batch: int,
    last_step: int,
    saved: Path | None = None,
) -> tuple[nn.Module | None, Any]:
    """A discriminator and its engine, or (None, None) where it never joins; `saved` continues an earlier one."""
    if config.gan.start_step >= last_step or not config.loss.adversarial:
        return None, None
    discriminator = PatchDiscriminator(config.gan.filters, config.gan.layers).to(world.device)
    if saved is not None and saved.exists():
        load_weights(discriminator, saved)
    return discriminator, build_engine(discriminator, config, world, lr=config.gan.lr, batch=batch)
