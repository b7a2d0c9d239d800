"""Scaled dot-product attention in the precision that is fastest on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(E)) v, (..., L, E) in the dtype of `v`.

    On CPU it is computed in fp32: the fused bf16 backward of PyTorch is slower there than the fp32
    one with both casts.

    Args:
        q: Queries, (..., L, E).
        k: Keys, (..., S, E).
        v: Values, (..., S, E).
        causal: Whether query i attends to keys 0..i only.
        mask: Bool, true where a query may attend to a key; broadcastable to (..., L, S).
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=mask, is_causal=causal
        ).to(v.dtype)
