"""Test that the tokenizer decodes what it encodes, and that distances stay fp32."""

import pytest
import torch

from gear.tokenizer.config import TokenizerConfig
from gear.tokenizer.model import Tokenizer


def _tiny(quantizer: str, levels: int = 2) -> Tokenizer:
    torch.manual_seed(0)
    z = 4 if quantizer == "lfq" else 8
    return Tokenizer(
        TokenizerConfig(
            quantizer=quantizer,
            codes=16,
            code_dim=4,
            base=8,
            multipliers=(1, 2, 2, 4, 4)[:levels],
            blocks=1,
            z_channels=z,
            steps=1,
            batch=1,
            lr=1e-3,
        )
    ).eval()


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_decode_indices_equals_decode(quantizer: str, levels: int) -> None:
    model, x = _tiny(quantizer, levels), torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        out = model(x)
        assert out.quantized.codes.shape == (2, 4, 64 >> (levels - 1), 64 >> (levels - 1))
        assert out.reconstruction.shape == x.shape
        torch.testing.assert_close(
            model.decode_indices(out.quantized.indices), out.reconstruction, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("quantizer", ["vq", "lfq", "ibq"])
def test_distances_are_fp32_under_bf16(quantizer: str) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            _tiny(quantizer).encode(torch.zeros(1, 3, 16, 16)).assignment.distances().dtype
            == torch.float32
        )


def test_published_sizes_of_the_vq_tokenizer() -> None:
    """Test LlamaGen's ds16 tokenizer, which has 72 M parameters."""
    config = TokenizerConfig(
        quantizer="vq",
        codes=16384,
        code_dim=8,
        base=128,
        multipliers=(1, 1, 2, 2, 4),
        blocks=2,
        z_channels=256,
        steps=1,
        batch=1,
        lr=1e-3,
    )
    with torch.device("meta"):
        count = sum(p.numel() for p in Tokenizer(config).parameters())
    assert 70e6 < count < 73e6
