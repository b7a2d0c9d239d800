"""Dropout keeps the mean."""

from __future__ import annotations

import pytest
import torch

from gear.nn.dropout import Dropout


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.1).train(), torch.ones(1000, 1001, requires_grad=True)
    y = layer(x)
    share = (y == 0).double().mean().item()
    assert share == pytest.approx(0.1, abs=0.0015)  # five standard deviations of a million draws
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)
