"""Autoregressive transformer of the LlamaGen family.

B batch, T prefix length (1 for a class), L tokens, K codes, D model width, H heads, E head width,
S = T + L - 1. The input is the prefix followed by tokens 0..L-2. Outputs are read from position
T-1 on: output k has seen tokens 0..k-1 and predicts token k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gear.generator.conditioning import (
    CaptionEmbedding,
    Captions,
    ClassEmbedding,
    Condition,
    visible,
)
from gear.generator.config import GeneratorShape
from gear.generator.rope import rotary_table, rotate
from gear.nn.attention import attend
from gear.nn.dropout import Dropout, uniforms_by_image

Assigned = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


class GeneratorOutput(NamedTuple):
    """Output of a forward pass; a tuple, because ZeRO-3 does not look for tensors in other classes.

    tap: The residual stream after the tap layer, before any norm, (B, L, D).
    logits: (B, L, K); None if only the tap was asked for.
    """

    tap: torch.Tensor
    logits: torch.Tensor | None


@dataclass
class KeyValues:
    """Key-value cache of one layer, (B, H, S, E) each, and the number of filled positions."""

    keys: torch.Tensor
    values: torch.Tensor
    filled: int = 0

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add positions (B, H, n, E); return all keys and values so far, in the dtype of `k`."""
        end = self.filled + k.shape[2]
        self.keys[:, :, self.filled : end], self.values[:, :, self.filled : end] = k, v
        self.filled = end
        return self.keys[:, :, :end].to(k.dtype), self.values[:, :, :end].to(k.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32 with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-5).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with rotary positions.

    In its methods, `text` is the number of leading positions that belong to the text stream.
    """

    def __init__(self, config: GeneratorShape) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x_BSD: torch.Tensor,
        table: torch.Tensor,
        mask: torch.Tensor | None,
        cache: KeyValues | None,
        text: int,
    ) -> torch.Tensor:
        q, k, v = (
            torch.unflatten(part, -1, (self.heads, -1))
            for part in self.qkv(x_BSD, text).chunk(3, dim=-1)
        )
        q, k, v = (
            rotate(q, table).transpose(1, 2),
            rotate(k, table).transpose(1, 2),
            v.transpose(1, 2),
        )
        first = cache is None or cache.filled == 0
        if cache is not None:
            k, v = cache.append(k, v)
        mixed = attend(
            q, k, v, causal=mask is None and first and q.shape[2] > 1, mask=mask
        ).type_as(x_BSD)
        result: torch.Tensor = self.dropout(self.out(mixed.transpose(1, 2).flatten(-2), text))
        return result

    def qkv(self, x_BSD: torch.Tensor, text: int) -> torch.Tensor:
        """Return queries, keys and values side by side, (B, S, 3 D)."""
        result: torch.Tensor = self.wqkv(x_BSD)
        return result

    def out(self, x_BSD: torch.Tensor, text: int) -> torch.Tensor:
        """Apply the output projection."""
        result: torch.Tensor = self.wo(x_BSD)
        return result


class DualAttention(Attention):
    """Attention with separate projections for text positions."""

    def __init__(self, config: GeneratorShape) -> None:
        super().__init__(config)
        self.wqkv_text = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo_text = nn.Linear(config.width, config.width, bias=False)

    def qkv(self, x_BSD: torch.Tensor, text: int) -> torch.Tensor:
        return by_stream(x_BSD, text, self.wqkv_text, self.wqkv)

    def out(self, x_BSD: torch.Tensor, text: int) -> torch.Tensor:
        return by_stream(x_BSD, text, self.wo_text, self.wo)


def by_stream(
    x_BSD: torch.Tensor,
    text: int,
    of_text: Callable[[torch.Tensor], torch.Tensor],
    of_image: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Apply one function to the first `text` positions and another to the rest."""
    if text == 0:
        return of_image(x_BSD)
    return torch.cat([of_text(x_BSD[:, :text]), of_image(x_BSD[:, text:])], dim=1)


class FeedForward(nn.Module):
    """SwiGLU with hidden 8d/3 rounded up to a multiple of 256."""

    def __init__(self, config: GeneratorShape) -> None:
        super().__init__()
        hidden = 256 * -(-(8 * config.width // 3) // 256)
        self.w1 = nn.Linear(config.width, hidden, bias=False)
        self.w3 = nn.Linear(config.width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))
        return result


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    compiles_alone = True

    def __init__(self, config: GeneratorShape) -> None:
        super().__init__()
        self.attention = self.build_attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.width)
        self.ffn_norm = RMSNorm(config.width)

    def build_attention(self, config: GeneratorShape) -> Attention:
        """Return the attention module of this kind of block."""
        return Attention(config)

    def forward(
        self,
        x: torch.Tensor,
        table: torch.Tensor,
        mask: torch.Tensor | None,
        cache: KeyValues | None,
        text: int,
    ) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), table, mask, cache, text)
        result: torch.Tensor = x + self.feed_forward(self.ffn_norm(x))
        return result


class DualBlock(Block):
    """Block with separate norms and attention projections for text positions.

    The feed-forward is shared.
    """

    def __init__(self, config: GeneratorShape) -> None:
        super().__init__(config)
        self.attention_norm_text = RMSNorm(config.width)
        self.ffn_norm_text = RMSNorm(config.width)

    def build_attention(self, config: GeneratorShape) -> Attention:
        return DualAttention(config)

    def forward(
        self,
        x: torch.Tensor,
        table: torch.Tensor,
        mask: torch.Tensor | None,
        cache: KeyValues | None,
        text: int,
    ) -> torch.Tensor:
        x = x + self.attention(
            by_stream(x, text, self.attention_norm_text, self.attention_norm),
            table,
            mask,
            cache,
            text,
        )
        result: torch.Tensor = x + self.feed_forward(
            by_stream(x, text, self.ffn_norm_text, self.ffn_norm)
        )
        return result


class TokenEmbedding(nn.Embedding):
    """Token embedding table that is looked up by indices, or mixed by a function.

    The table is read only inside `forward`, where ZeRO-3 gathers it in the forward and backward
    pass.
    """

    def forward(self, assignment: Assigned) -> torch.Tensor:
        """Return the rows (B, L, D) of indices (B, L), or the result of a function of the table."""
        return (
            super().forward(assignment)
            if isinstance(assignment, torch.Tensor)
            else assignment(self.weight)
        )


class Generator(nn.Module):
    """Next-token prediction over a grid of codes, from hard indices or a soft assignment.

    It is conditioned on one of `classes`, or on captions if `empty_caption` is given: the text
    states (t, C) of the empty caption. With captions, the first third of the blocks is dual-stream.
    """

    table: torch.Tensor

    def __init__(
        self,
        config: GeneratorShape,
        *,
        codes: int,
        grid: int,
        classes: int = 0,
        empty_caption: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = False  # set in training to save memory
        self.config, self.codes, self.tokens, self.classes = config, codes, grid * grid, classes
        self.tok_embeddings = TokenEmbedding(codes, config.width)
        self.cls_embedding: Any = (
            ClassEmbedding(classes, config.width)
            if empty_caption is None
            else CaptionEmbedding(empty_caption, config.width)
        )
        self.tok_dropout = Dropout(config.dropout)
        dual = 0 if empty_caption is None else config.layers // 3
        self.layers = nn.ModuleList(
            DualBlock(config) if number < dual else Block(config) for number in range(config.layers)
        )
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, codes, bias=False)
        table = rotary_table(
            grid, config.width // config.heads, 1, config.prefix_rope
        )  # one row serves every prefix position
        self.register_buffer("table", table, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.normal_(module.bias, std=0.02)
        nn.init.zeros_(self.output.weight)
        for number, dropout in enumerate(m for m in self.modules() if isinstance(m, Dropout)):
            dropout.number = number

    def forward(
        self, assignment: Assigned, condition: Condition, *, tap_only: bool = False
    ) -> GeneratorOutput:
        """Predict every token of an assignment.

        In train mode each condition is replaced by the null one with probability `class_dropout`.

        Args:
            assignment: Indices (B, L) int64, or a function that mixes the embedding table (K, D)
                to (B, L, D).
            condition: The conditions.
            tap_only: Whether to stop after the tap layer.
        """
        if self.training and self.config.class_dropout:
            uniforms = uniforms_by_image(len(condition), self.table.device)
            dropped = uniforms < self.config.class_dropout
            condition = self.cls_embedding.drop(condition, dropped)
        tokens = self.tok_embeddings(assignment)[:, :-1]
        prefix = self.cls_embedding(condition)
        text = prefix.shape[1]
        x = self.tok_dropout(torch.cat([prefix, tokens.to(prefix.dtype)], dim=1))
        table, mask = self._rows(0, x.shape[1], text), causal_mask(condition, x.shape[1])
        tap = x
        for number, layer in enumerate(
            self.layers[: self.config.tap if tap_only else None], start=1
        ):
            run = (
                partial(checkpoint, layer, use_reentrant=False)
                if self.activation_checkpointing and torch.is_grad_enabled()
                else layer
            )
            x = run(x, table, mask, None, text)
            if number == self.config.tap:
                tap = x
        seen = slice(text - 1, None)
        return GeneratorOutput(
            tap[:, seen], None if tap_only else self.output(self.norm(x[:, seen]))
        )

    def _rows(self, first: int, last: int, text: int) -> torch.Tensor:
        """Return rotary rows of positions first..last-1, of which the first `text` are prefix."""
        if text == 1:
            return self.table[first:last]
        return self.table[
            (torch.arange(first, last, device=self.table.device) - (text - 1)).clamp(min=0)
        ]

    def null(self, condition: Condition) -> Condition:
        """Return a null condition for each condition, for classifier-free guidance."""
        result: Condition = self.cls_embedding.drop(
            condition, torch.ones(len(condition), dtype=torch.bool, device=self.table.device)
        )
        return result

    def new_cache(self, condition: Condition, dtype: torch.dtype) -> list[KeyValues]:
        """Return an empty cache per layer, for full-length sequences under this condition."""
        prefix = condition.states_BTC.shape[1] if isinstance(condition, Captions) else 1
        shape = (
            len(condition),
            self.config.heads,
            prefix + self.tokens - 1,
            self.config.width // self.config.heads,
        )
        device = self.output.weight.device
        return [
            KeyValues(
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in self.layers
        ]

    def decode(
        self,
        tokens_B: torch.Tensor | None,
        condition: Condition,
        caches: list[KeyValues],
        position: int,
    ) -> torch.Tensor:
        """Return the logits (B, K) of token `position`, given the token before it.

        `tokens_B` is None at position 0, where the prefix is the input.
        """
        x = (
            self.cls_embedding(condition)
            if tokens_B is None
            else self.tok_embeddings(tokens_B)[:, None]
        )
        text = condition.states_BTC.shape[1] if isinstance(condition, Captions) else 1
        first, last = (0, text) if tokens_B is None else (text + position - 1, text + position)
        mask = causal_mask(condition, last)
        if mask is not None:
            mask = mask[:, :, first:]
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(
                x, self._rows(first, last, text), mask, cache, text if tokens_B is None else 0
            )
        result: torch.Tensor = self.output(self.norm(x[:, -1:]))[:, 0]
        return result


def causal_mask(condition: Condition, length: int) -> torch.Tensor | None:
    """Return the attention mask of captions, (B, 1, S, S) bool: causal, without padding.

    It is None for classes, whose attention is causal without a mask.

    Every position may attend to some: a caption begins with at least one position of text.
    """
    if not isinstance(condition, Captions):
        return None
    allowed = F.pad(visible(condition), (0, length - condition.real_BT.shape[1]), value=True)
    causal = torch.ones(length, length, dtype=torch.bool, device=allowed.device).tril()
    return causal & allowed[:, None, None]
