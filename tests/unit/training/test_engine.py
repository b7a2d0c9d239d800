"""Modules frozen for an update."""

from __future__ import annotations

import pytest
import torch

from gear.training.engine import frozen


def test_frozen_restores_mode_and_gradients() -> None:
    module = torch.nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError), frozen(module):
        assert not module.training and not module.weight.requires_grad
        raise RuntimeError
    assert module.training and module.weight.requires_grad
