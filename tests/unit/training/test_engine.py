"""Modules frozen for an update."""

from __future__ import annotations

import pytest
import torch

from gear.training.engine import frozen


def test_frozen_restores_mode_and_gradients() -> None:
    module = torch.nn.Linear(2, 2).train()
    with frozen(module):
        assert not module.training
        assert not module.weight.requires_grad
    assert module.training
    assert module.weight.requires_grad


def test_frozen_restores_after_an_error() -> None:
    module = torch.nn.Linear(2, 2).train()

    def fail() -> None:
        with frozen(module):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert module.training
    assert module.weight.requires_grad
