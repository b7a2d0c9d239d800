"""Test adversarial losses against loops, and shapes of the discriminator."""

from __future__ import annotations

import pytest
import torch

from gear.losses.adversarial import (
    Lecam,
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
)
from gear.losses.config import most_discriminator_layers


def test_hinge_against_a_loop() -> None:
    real, fake = torch.randn(5), torch.randn(5)
    wanted = (
        0.5
        * sum(
            max(0, 1 - r) + max(0, 1 + f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)
        )
        / 5
    )
    assert abs(hinge_discriminator(real, fake).item() - wanted) < 1e-5
    assert abs(hinge_generator(fake).item() + sum(fake.tolist()) / 5) < 1e-5


def test_patches() -> None:
    assert PatchDiscriminator(8, 2)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 6, 6)


def test_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    weight = torch.randn(3, requires_grad=True)
    a, b = torch.randn(3), torch.randn(3)
    found = adaptive_weight((a * weight).sum(), (b * weight).sum(), weight)
    assert found.item() == pytest.approx((a.norm() / (b.norm() + 1e-4)).item(), rel=1e-5)
    assert not found.requires_grad
    assert weight.grad is None
    assert (
        adaptive_weight(
            (a * weight).sum(), (0 * weight).sum() + (1e-30 * weight).sum(), weight
        ).item()
        <= 1e4
    )


def test_lecam_against_a_loop() -> None:
    lecam, anchors = Lecam(torch.device("cpu")), [0.0, 0.0]
    for seed in range(3):
        torch.manual_seed(seed)
        real, fake = torch.randn(4) + 1, torch.randn(4) - 1
        found = lecam(real, fake).item()
        anchors = [
            0.999 * old + 0.001 * sum(x.tolist()) / 4
            for old, x in zip(anchors, (real, fake), strict=True)
        ]
        wanted = (
            sum(max(0, r - anchors[1]) ** 2 for r in real.tolist()) / 4
            + sum(max(0, anchors[0] - f) ** 2 for f in fake.tolist()) / 4
        )
        assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
def test_most_layers_are_those_whose_logits_are_not_empty(size: int) -> None:
    def fits(layers: int) -> bool:
        try:
            return PatchDiscriminator(1, layers)(torch.zeros(1, 3, size, size)).numel() > 0
        except (RuntimeError, ValueError):  # of a convolution, or of the norm after it
            return False

    most = most_discriminator_layers(size)
    assert [fits(layers) for layers in range(1, 7)] == [layers <= most for layers in range(1, 7)]
