"""The packaged teacher is frozen, stays in eval mode and passes gradients to images."""

import torch

from gear.alignment.teachers import build_encoder
from gear.losses.reconstruction import PerceptualLoss


def test_teacher() -> None:
    encoder = build_encoder().train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert len(encoder.weights_sha256) == 64
    x = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    assert encoder(x, 128, 8).shape == (2, 64, 112)
    loss = PerceptualLoss(encoder)
    assert loss(x, x.detach()).item() == 0
    loss(x, torch.zeros_like(x)).backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
