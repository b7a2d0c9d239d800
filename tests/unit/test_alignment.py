"""The alignment loss against a loop."""

import math

import torch

from gear.alignment.loss import alignment_loss


def test_minus_mean_cosine() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    total = 0.0
    for p, q in zip(a.reshape(6, 4).tolist(), b.reshape(6, 4).tolist(), strict=True):
        total += sum(x * y for x, y in zip(p, q, strict=True)) / (math.hypot(*p) * math.hypot(*q))
    assert abs(alignment_loss(a, b).item() + total / 6) < 1e-5
