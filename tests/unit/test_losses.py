"""Hinge losses against loops; shapes of the discriminator."""

import torch

from gear.losses.adversarial import PatchDiscriminator, hinge_discriminator, hinge_generator


def test_hinge_against_a_loop() -> None:
    real, fake = torch.randn(5), torch.randn(5)
    wanted = 0.5 * sum(max(0, 1 - r) + max(0, 1 + f) for r, f in zip(real.tolist(), fake.tolist(), strict=True)) / 5
    assert abs(hinge_discriminator(real, fake).item() - wanted) < 1e-5
    assert abs(hinge_generator(fake).item() + sum(fake.tolist()) / 5) < 1e-5


def test_patches() -> None:
    assert PatchDiscriminator(8, 2)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 6, 6)
