"""Scaled dot-product attention in the precision that is fastest on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F

SHORT = 128  # positions up to which all scores are held


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(E)) v of (..., L, E) tensors, in the dtype of `v`.

    `mask`: bool, True where a query may attend; broadcast over heads.

    On CPU, short sequences in bf16 take two matrix products with an fp32 softmax between them: two
    thirds of the time of PyTorch's fused kernel in fp32, whose bf16 backward is slower still.
    Longer ones are computed in fp32 (docs/performance.md).
    """
    if not q.is_cuda and v.dtype == torch.bfloat16 and k.shape[-2] <= SHORT:
        return _by_products(q, k, v, causal=causal, mask=mask)
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=mask, is_causal=causal
        ).to(v.dtype)


def _by_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, mask: torch.Tensor | None
) -> torch.Tensor:
    scores = ((q * q.shape[-1] ** -0.5).to(v.dtype) @ k.to(v.dtype).transpose(-1, -2)).float()
    if causal:
        length = k.shape[-2]
        mask = torch.ones(q.shape[-2], length, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    result: torch.Tensor = scores.softmax(-1).to(v.dtype) @ v
    return result
