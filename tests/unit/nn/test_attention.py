"""Test attention against a loop, and its precision under autocast."""

from __future__ import annotations

import math

import pytest
import torch

from gear.nn.attention import attend


@pytest.mark.parametrize("causal", [False, True])
def test_attention_matches_a_loop(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4) for _ in range(3))
    expected = torch.zeros_like(v)
    for b in range(2):
        for h in range(3):
            for i in range(5):
                seen = range(i + 1) if causal else range(5)
                scores = [math.exp(float(q[b, h, i] @ k[b, h, j]) / 2.0) for j in seen]
                expected[b, h, i] = sum(
                    s * v[b, h, j] for s, j in zip(scores, seen, strict=True)
                ) / sum(scores)
    torch.testing.assert_close(attend(q, k, v, causal=causal), expected, atol=1e-5, rtol=1e-5)


def test_on_cpu_bf16_inputs_are_multiplied_in_fp32() -> None:
    q, k, v = (torch.randn(1, 2, 6, 8).bfloat16() for _ in range(3))
    exact = attend(q.float(), k.float(), v.float()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        ours = attend(q, k, v)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, exact)
