"""Copies of training images."""

from __future__ import annotations

import numpy as np
import pytest

from gear.evaluation import memorisation


def test_an_exact_copy_is_found_and_unseen_images_mostly_not() -> None:
    random = np.random.default_rng(0)
    train, val = (random.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (50, 100))
    threshold = memorisation.copy_threshold(memorisation.nearest(val, train))
    assert (memorisation.nearest(train[:5], train) < threshold).all()
    assert (memorisation.nearest(val, train) < threshold).mean() == pytest.approx(0.01)
