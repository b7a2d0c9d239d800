"""The PatchGAN discriminator and its hinge losses (GEAR, Tokenizer loss)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Sequential):
    """Strided 4x4 convolutions to one verdict a patch, (B, 1, h, w); widths double up to 8 x filters."""

    def __init__(self, filters: int, layers: int) -> None:
        parts: list[nn.Module] = [nn.Conv2d(3, filters, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = filters
        for number in range(1, layers + 1):
            wider = filters * min(2**number, 8)
            stride = 2 if number < layers else 1
            parts += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(32, wider), wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        super().__init__(*parts, nn.Conv2d(width, 1, 4, padding=1))


def hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """0.5 (relu(1 - D(x)) + relu(1 + D(x_hat))), means over verdicts."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def hinge_generator(fake: torch.Tensor) -> torch.Tensor:
    """-mean D(x_hat): what the tokenizer minimises."""
    return -fake.float().mean()
