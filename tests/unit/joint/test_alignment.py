"""Test the alignment loss against a loop, with one and several teachers."""

import math

import pytest
import torch

from gear.joint.alignment import Projector, alignment_loss


@pytest.mark.parametrize("teachers", [(4,), (3, 1), (1, 2, 1)])
def test_minus_mean_cosine_over_batch_tokens_and_teachers(teachers: tuple[int, ...]) -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    total, count, start = 0.0, 0, 0
    for width in teachers:
        for p, q in zip(a.reshape(6, 4).tolist(), b.reshape(6, 4).tolist(), strict=True):
            p, q = p[start : start + width], q[start : start + width]
            total += sum(x * y for x, y in zip(p, q, strict=True)) / (
                math.hypot(*p) * math.hypot(*q)
            )
            count += 1
        start += width
    assert abs(alignment_loss(a, b, teachers).item() + total / count) < 1e-5


def test_a_teacher_does_not_train_another_teachers_head() -> None:
    projector = Projector(6, 8, (3, 2))
    projected = projector(torch.randn(2, 5, 6))
    assert projected.shape == (2, 5, 5)
    projected[..., :3].sum().backward()
    assert all(p.grad is not None for p in projector.heads[0].parameters())
    assert all(p.grad is None or not p.grad.any() for p in projector.heads[1].parameters())
