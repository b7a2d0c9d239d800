"""The class-conditional autoregressive transformer of the LlamaGen family (GEAR, Generator).

B batch, L tokens, K codes, D model width, H heads, E head width. The input is the class prefix followed by tokens
0..L-2, so that position k has seen tokens 0..k-1 and predicts token k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gear.attention import attend
from gear.config import GeneratorConfig
from gear.generator.dropout import Dropout
from gear.generator.rope import rotary_table, rotate

PREFIX = 1
Assigned = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class GeneratorOutput:
    """`tap`: raw residual stream after the tap layer, (B, L, D); `logits`: (B, L, K), None when only the tap was asked for."""

    tap: torch.Tensor
    logits: torch.Tensor | None


@dataclass
class KeyValues:
    """One layer's cache, (B, H, L, E) each, filled up to the position being decoded."""

    keys: torch.Tensor
    values: torch.Tensor


class RMSNorm(nn.Module):
    """Root-mean-square norm in fp32 with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-5).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.wqkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLD: torch.Tensor, table: torch.Tensor, cache: KeyValues | None, position: int) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.wqkv(x_BLD).chunk(3, dim=-1))
        q, k, v = rotate(q, table).transpose(1, 2), rotate(k, table).transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            end = position + x_BLD.shape[1]
            cache.keys[:, :, position:end], cache.values[:, :, position:end] = k, v
            k, v = cache.keys[:, :, :end].to(q.dtype), cache.values[:, :, :end].to(q.dtype)
        mixed = attend(q, k, v, causal=position == 0 and q.shape[2] > 1).type_as(x_BLD)
        return self.dropout(self.wo(mixed.transpose(1, 2).flatten(-2)))


class FeedForward(nn.Module):
    """SwiGLU with hidden 8d/3 rounded up to a multiple of 256."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        hidden = 256 * -(-(8 * config.width // 3) // 256)
        self.w1 = nn.Linear(config.width, hidden, bias=False)
        self.w3 = nn.Linear(config.width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, config.width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.width)
        self.ffn_norm = RMSNorm(config.width)

    def forward(self, x: torch.Tensor, table: torch.Tensor, cache: KeyValues | None, position: int) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), table, cache, position)
        return x + self.feed_forward(self.ffn_norm(x))


class ClassEmbedding(nn.Module):
    """One learned prefix vector a class; index `classes` is the null class of guidance."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, labels_B: torch.Tensor) -> torch.Tensor:
        return self.embedding_table(labels_B)[:, None]


class Generator(nn.Module):
    """Next-token prediction over a grid of codes, from hard indices or a soft assignment."""

    table: torch.Tensor

    def __init__(self, config: GeneratorConfig, *, codes: int, grid: int, classes: int) -> None:
        super().__init__()
        self.config, self.codes, self.tokens, self.classes = config, codes, grid * grid, classes
        self.tok_embeddings = nn.Embedding(codes, config.width)
        self.cls_embedding = ClassEmbedding(classes, config.width)
        self.tok_dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.output = nn.Linear(config.width, codes, bias=False)
        table = rotary_table(grid, config.width // config.heads, PREFIX, config.prefix_rope)
        self.register_buffer("table", table, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.output.weight)

    def forward(self, assignment: Assigned, labels_B: torch.Tensor, *, tap_only: bool = False) -> GeneratorOutput:
        """Predict every token of `assignment`: indices (B, L) int64, or what mixes the embedding table (K, D) to (B, L, D).

        In train mode a label becomes the null class with probability `class_dropout`. `tap_only` stops after the tap layer.
        """
        if self.training and self.config.class_dropout:
            drop = torch.rand(labels_B.shape, device=labels_B.device) < self.config.class_dropout
            labels_B = labels_B.masked_fill(drop, self.classes)
        if isinstance(assignment, torch.Tensor):
            tokens = self.tok_embeddings(assignment[:, :-1])
        else:  # the table is whole only in here under ZeRO-3
            tokens = assignment(self.tok_embeddings.weight)[:, :-1]
        prefix = self.cls_embedding(labels_B)
        x_BLD = self.tok_dropout(torch.cat([prefix, tokens.to(prefix.dtype)], dim=1))
        tap = x_BLD
        for number, layer in enumerate(self.layers[: self.config.tap if tap_only else None], start=1):
            run = partial(checkpoint, layer, use_reentrant=False) if self.config.checkpointing and torch.is_grad_enabled() else layer
            x_BLD = run(x_BLD, self.table[: x_BLD.shape[1]], None, 0)
            if number == self.config.tap:
                tap = x_BLD
        return GeneratorOutput(tap, None if tap_only else self.output(self.norm(x_BLD)))

    def new_cache(self, batch: int, dtype: torch.dtype) -> list[KeyValues]:
        """An empty cache for `batch` sequences of full length."""
        shape = (batch, self.config.heads, self.tokens, self.config.width // self.config.heads)
        device = self.output.weight.device
        return [
            KeyValues(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)) for _ in self.layers
        ]

    def decode(self, tokens_B: torch.Tensor | None, labels_B: torch.Tensor, caches: list[KeyValues], position: int) -> torch.Tensor:
        """Logits (B, K) of token `position`, given the token before it (None at position 0: the class prefix)."""
        x_BLD = self.cls_embedding(labels_B) if tokens_B is None else self.tok_embeddings(tokens_B)[:, None]
        table = self.table[position : position + 1]
        for layer, cache in zip(self.layers, caches, strict=True):
            x_BLD = layer(x_BLD, table, cache, position)
        return self.output(self.norm(x_BLD))[:, 0]
