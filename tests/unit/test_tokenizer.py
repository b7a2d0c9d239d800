"""The tokenizer decodes what it encodes; distances stay fp32."""

import torch

from gear.config import TokenizerConfig
from gear.tokenizer.model import Tokenizer


def _tiny() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(
        TokenizerConfig(codes=16, code_dim=4, base=8, multipliers=(1, 2), blocks=1, z_channels=8, steps=1, batch=1, lr=1e-3)
    ).eval()


def test_decode_indices_equals_decode() -> None:
    model, x = _tiny(), torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        out = model(x)
        assert out.reconstruction.shape == x.shape
        torch.testing.assert_close(model.decode_indices(out.quantized.indices), out.reconstruction, atol=1e-5, rtol=1e-5)


def test_distances_are_fp32_under_bf16() -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert _tiny().encode(torch.zeros(1, 3, 16, 16)).distances.dtype == torch.float32
