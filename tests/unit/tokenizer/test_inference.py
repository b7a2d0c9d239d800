"""Test how many images pass through the tokenizer at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gear.tokenizer.config import TokenizerConfig
from gear.tokenizer.inference import decode_tokens, encode_images
from gear.tokenizer.model import Tokenizer


def sizes_seen(module: nn.Module) -> list[int]:
    """Return a list that gets the batch size of each call of a module."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize(("side", "largest"), [(32, 128), (256, 8)])
def test_large_images_pass_through_the_tokenizer_a_few_at_a_time(side: int, largest: int) -> None:
    torch.manual_seed(0)
    shape = {"base": 8, "blocks": 1, "multipliers": (1, 1, 1, 1), "z_channels": 8}
    tokenizer = Tokenizer(TokenizerConfig(codes=16, code_dim=4, **shape)).eval()
    random = np.random.default_rng(0)
    count, tokens = largest + 3, (side // 8) ** 2
    images = random.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    codes = random.integers(0, 16, (count, tokens))
    encoded, decoded = sizes_seen(tokenizer.encoder), sizes_seen(tokenizer.decoder)
    indices, pixels = encode_images(tokenizer, images), decode_tokens(tokenizer, codes)
    assert encoded == decoded == [largest, 3]
    assert indices.shape == (count, tokens)
    assert pixels.shape == images.shape
    (last,) = decode_tokens(tokenizer, codes[-1:])  # pieces are in the order of the images
    assert np.abs(pixels[-1].astype(int) - last).max() <= 1  # but for rounding
