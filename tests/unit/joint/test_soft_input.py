"""Test soft tokens against hard ones."""

from __future__ import annotations

import pytest

from gear.joint.soft_input import soft_tokens
from tests.support.joint import batch, models, small


@pytest.mark.parametrize("readout", ["soft", "straight_through"])
def test_soft_tokens_become_the_hard_tokens_as_temperature_falls(readout: str) -> None:
    tokenizer, guided = models(small())
    quantized = tokenizer.encode(batch(small(), 0).images_BCHW)
    table = guided.generator.tok_embeddings.weight.detach()
    hard = table[quantized.indices]
    gaps = [
        (soft_tokens(quantized, table, temperature=tau, readout=readout) - hard).abs().max().item()
        for tau in (1.0, 0.01, 1e-7)
    ]
    assert gaps[-1] < 1e-6
    # straight-through has the hard value at any temperature
    assert (gaps[0] > 1e-3) == (readout == "soft")
