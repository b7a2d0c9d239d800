"""Test the assignment of latents to codes, read out hard and soft."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gear.tokenizer import assignment as module
from gear.tokenizer.assignment import Assignment

K, D, B, SIDE = 16, 4, 2, 3


@pytest.fixture(params=[1 << 24, 3 * K], ids=["whole", "chunks"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compute the assignment in one chunk, and in chunks of three tokens."""
    monkeypatch.setattr(module, "CHUNK", request.param)
    return request.param


def values_and_gradient(
    function: Callable[[Assignment], torch.Tensor], z: torch.Tensor, keys: torch.Tensor
) -> list[torch.Tensor]:
    value = function(Assignment(z, keys, scale=2.0, offset=2.0))
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
    return [value, *torch.autograd.grad((value * direction).sum(), [z, keys])]


def test_mixing_a_table_matches_the_full_matrix(chunk: int) -> None:
    torch.manual_seed(1)
    z, keys, table = (
        torch.randn(B, 9, D, requires_grad=True),
        torch.randn(K, D, requires_grad=True),
        torch.randn(K, 5),
    )
    ours = values_and_gradient(lambda a: a.mix(table, 0.3), z, keys)
    shares = torch.exp(2 * z.double() @ keys.double().T / 0.3)
    expected = (shares / shares.sum(-1, keepdim=True)) @ table.double()
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5))
    for a, b in zip(
        ours, [expected, *torch.autograd.grad((expected * direction).sum(), [z, keys])], strict=True
    ):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-5, rtol=1e-4)


def test_support_and_top_mass_match_numpy(chunk: int) -> None:
    one = Assignment(torch.randn(B, 9, D), torch.randn(K, D), scale=1.0)
    shares = one.soft(0.7).double().numpy().reshape(-1, K)
    assert one.support(0.7) == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum(-1)).mean(), rel=1e-5
    )
    assert one.top_mass(0.7, 3) == pytest.approx(
        np.sort(shares, -1)[:, -3:].sum(-1).mean(), rel=1e-5
    )
    assert one.support(1e-6) == pytest.approx(1.0)
    assert one.support(1e6) == pytest.approx(K, rel=1e-4)


def test_autocast_leaves_distances_alone_and_applies_to_the_mixed_table() -> None:
    torch.manual_seed(1)
    assignment = Assignment(torch.randn(B, 9, D), torch.randn(K, D), scale=2.0)
    table = torch.randn(K, 5)
    with torch.autocast("cpu", torch.bfloat16):
        distances, soft = assignment.distances(), assignment.soft(0.3)
        mixed = assignment.mix(table, 0.3)
    assert torch.equal(distances, assignment.distances())
    assert torch.equal(soft, assignment.soft(0.3))
    assert torch.equal(mixed, soft.bfloat16() @ table.bfloat16())
