"""Test codebook statistics against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gear.evaluation import codebook


def test_codebook_numbers() -> None:
    counts = codebook.histogram(np.array([[0, 0, 1], [1, 2, 2]]), 4)
    assert counts.tolist() == [2, 2, 2, 0]
    assert codebook.perplexity(counts) == pytest.approx(3.0)
    assert codebook.usage(counts) == 0.75
    assert codebook.top_mass(counts, 2) == pytest.approx(2 / 3)
    assert codebook.churn(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5
