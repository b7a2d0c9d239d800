"""Test that dropout keeps the mean and that masks belong to images."""

from __future__ import annotations

import pytest
import torch

from gear.nn.dropout import Dropout, drawn_by_image, uniforms_by_image


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


def test_masks_belong_to_images_whatever_batch_they_are_in() -> None:
    layer, other = Dropout(0.5).train(), Dropout(0.5).train()
    other.number = 1
    x = torch.ones(6, 7, 9)
    seeds = [3, 1, 4, 15, 92, 65]
    with drawn_by_image(seeds):
        whole = layer(x)
        assert not torch.equal(whole, other(x)), "modules differ"
    for rows in (slice(0, 2), slice(1, 6, 2)):
        with drawn_by_image(seeds[rows]):
            assert torch.equal(layer(x[rows]), whole[rows])
    assert len({row.numpy().tobytes() for row in whole}) == 6, "images differ"
    assert not torch.equal(layer(x), whole), "outside the block torch's own generator draws"
    with drawn_by_image(seeds[:3]), pytest.raises(ValueError, match="zip"):
        layer(x)


def test_conditions_are_dropped_by_image() -> None:
    seeds = list(range(4000))
    with drawn_by_image(seeds):
        whole = uniforms_by_image(4000, torch.device("cpu"))
    with drawn_by_image(seeds[2000:]):
        assert torch.equal(uniforms_by_image(2000, torch.device("cpu")), whole[2000:])
    assert whole.mean().item() == pytest.approx(0.5, abs=0.03)
    assert whole.unique().numel() > 3900
