"""Test rotary position embeddings against complex multiplication."""

from __future__ import annotations

import cmath

import pytest
import torch

from gear.generator.rope import rotary_table, rotate

K, GRID, CLASSES = 13, 3, 4


L = GRID * GRID


def test_a_zeroed_prefix_is_seen_without_regard_to_content() -> None:
    table = rotary_table(GRID, 8, 1, "zero")
    assert not table[0].any()
    assert torch.equal(rotary_table(GRID, 8, 1, "identity")[0, :, 0], torch.ones(4))


def test_rotation_is_multiplication_by_a_unit_complex_number() -> None:
    width, base = 8, 10_000.0
    x = torch.randn(1, 1 + L, 1, width)
    ours = rotate(x, rotary_table(GRID, width, 1, "identity"))[0, :, 0]
    for token in range(L):
        for pair in range(width // 2):
            coordinate = token // GRID if pair < width // 4 else token % GRID
            angle = coordinate * base ** (-(pair % (width // 4)) * 2 / (width // 2))
            value = complex(*x[0, token + 1, 0, 2 * pair : 2 * pair + 2].tolist()) * cmath.exp(
                1j * angle
            )
            assert ours[token + 1, 2 * pair].item() == pytest.approx(value.real, abs=1e-5)
            assert ours[token + 1, 2 * pair + 1].item() == pytest.approx(value.imag, abs=1e-5)
