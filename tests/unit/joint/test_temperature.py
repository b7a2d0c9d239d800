"""Test that the temperature is used as set, or calibrated to a support."""

from __future__ import annotations

import pytest
import torch

from gear.core.errors import InputError
from gear.joint.config import SupportConfig
from gear.joint.temperature import find_temperature
from gear.tokenizer.config import TokenizerConfig
from gear.tokenizer.model import Tokenizer


@pytest.fixture(params=["vq", "lfq", "ibq"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    torch.manual_seed(0)
    z = 5 if request.param == "lfq" else 8
    return Tokenizer(
        TokenizerConfig(
            quantizer=request.param,
            codes=32,
            code_dim=5,
            base=8,
            multipliers=(1, 2),
            blocks=1,
            z_channels=z,
            steps=1,
            batch=1,
            lr=1e-3,
        )
    ).eval()


def test_a_number_is_used_as_it_is(tokenizer: Tokenizer) -> None:
    assert find_temperature(0.25, tokenizer, torch.zeros(1, 3, 16, 16)) == 0.25


@pytest.mark.parametrize("support", [2.0, 9.5, 25.0])
def test_the_support_found_is_the_support_wanted(tokenizer: Tokenizer, support: float) -> None:
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    temperature = find_temperature(SupportConfig(support=support), tokenizer, images)
    with torch.no_grad():
        p = tokenizer.encode(images).assignment.soft(temperature).double()
    assert (-(p * p.clamp(min=1e-300).log()).sum(-1)).exp().mean().item() == pytest.approx(
        support, rel=1e-3
    )


def test_a_support_beyond_the_codebook_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"joint\.temperature\.support = 40\.0.*32 codes"):
        find_temperature(SupportConfig(support=40.0), tokenizer, torch.zeros(1, 3, 16, 16))
