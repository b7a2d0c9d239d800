"""PatchGAN discriminator, hinge losses, adaptive weight and LeCam regularization."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Sequential):
    """4x4 convolutions from images (B, 3, H, W) to one logit per patch, (B, 1, h, w).

    Widths double from layer to layer, up to 8 x filters.
    """

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
    """Return the hinge loss 0.5 (mean relu(1 - D(x)) + mean relu(1 + D(x_hat))), 0 or more.

    Args:
        real: Logits D(x) of images, of any shape.
        fake: Logits D(x_hat) of reconstructions, of any shape.

    >>> hinge_discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0]))
    tensor(0.7500)
    """
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def hinge_generator(fake: torch.Tensor) -> torch.Tensor:
    """Return -mean D(x_hat) of the logits of reconstructions, which the tokenizer minimises.

    >>> hinge_generator(torch.tensor([2.0, 0.0]))
    tensor(-1.)
    """
    return -fake.float().mean()


def adaptive_weight(
    reconstruction: torch.Tensor, verdict: torch.Tensor, last_layer: torch.Tensor
) -> torch.Tensor:
    """Return the ratio of gradient norms at the decoder's last weights, in [0, 1e4].

    It is |grad of reconstruction loss| / |grad of adversarial loss| (VQGAN, Esser et al. 2021).
    Both gradients are averaged over ranks first, so that n ranks agree with one.

    Args:
        reconstruction: The reconstruction loss, a scalar.
        verdict: The adversarial loss, a scalar.
        last_layer: Weights of the decoder's last layer.
    """
    return gradient_ratio(last_layer_gradients(reconstruction, verdict, last_layer))


def last_layer_gradients(
    reconstruction: torch.Tensor, verdict: torch.Tensor, last_layer: torch.Tensor
) -> torch.Tensor:
    """Return the gradients of both losses at the decoder's last weights, stacked, in fp32."""
    return torch.stack(
        [
            torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float()
            for loss in (reconstruction, verdict)
        ]
    )


def gradient_ratio(gradients: torch.Tensor) -> torch.Tensor:
    """Return the adaptive weight from this rank's `last_layer_gradients`, averaged over ranks."""
    reconstruction, verdict = _mean_over_ranks(gradients)
    result: torch.Tensor = (reconstruction.norm() / (verdict.norm() + 1e-4)).clamp(0, 1e4).detach()
    return result


class Lecam:
    """LeCam regularisation (Tseng et al. 2021).

    It pulls the logits of images towards the moving average of those of reconstructions, and the
    reverse.

    anchors: Moving averages of D(x) and D(x_hat) over all ranks; part of the resumable state.
    """

    DECAY = 0.999

    def __init__(self, device: torch.device) -> None:
        self.anchors = torch.zeros(2, device=device)

    def __call__(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Update the anchors, then return the penalty."""
        self.move(torch.stack([real.detach().float().mean(), fake.detach().float().mean()]))
        return self.penalty(real, fake)

    def move(self, means: torch.Tensor) -> None:
        """Update the anchors with the means of D(x) and D(x_hat), (2,), averaged over ranks."""
        self.anchors.lerp_(_mean_over_ranks(means), 1 - self.DECAY)

    def penalty(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Return mean relu(D(x) - anchor of x_hat)^2 + mean relu(anchor of x - D(x_hat))^2."""
        return (
            F.relu(real.float() - self.anchors[1]).square().mean()
            + F.relu(self.anchors[0] - fake.float()).square().mean()
        )


def _mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
