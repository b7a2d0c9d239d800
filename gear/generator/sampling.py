"""Drawing token grids: KV cache, classifier-free guidance, one seed a sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gear.generator.conditioning import Condition, concatenate
from gear.generator.config import SampleConfig
from gear.generator.transformer import Generator

SEED_STRIDE = 1_000_003  # sample i of a run is drawn with seed run.seed * SEED_STRIDE + i


def uniforms(seeds: np.ndarray, tokens: int) -> torch.Tensor:
    """One row of `tokens` uniforms in [0, 1) a seed, (N, tokens) float64: a sample's draws depend on its seed alone."""
    return torch.from_numpy(
        np.stack(
            [np.random.Generator(np.random.Philox(int(seed))).random(tokens) for seed in seeds]
        )
    )


def truncate(logits_BK: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Keep the `top_k` likeliest codes (0: all), then the fewest of those that hold mass `top_p`; others to -inf."""
    if 0 < top_k < logits_BK.shape[-1]:
        least = logits_BK.topk(top_k, dim=-1).values[..., -1:]
        logits_BK = logits_BK.masked_fill(logits_BK < least, -torch.inf)
    if top_p < 1.0:
        ordered, order = logits_BK.sort(dim=-1, descending=True, stable=True)
        share = ordered.softmax(-1)
        before = share.cumsum(-1) - share
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits_BK = logits_BK.masked_fill(drop, -torch.inf)
    return logits_BK


def pick(logits_BK: torch.Tensor, uniforms_B: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF draw from softmax(logits), (B,) int64."""
    cumulative = logits_BK.softmax(-1).cumsum(-1)
    target = uniforms_B.to(cumulative)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(
        max=logits_BK.shape[-1] - 1
    )


@torch.no_grad()
def sample(
    generator: Generator,
    condition: Condition,
    seeds: np.ndarray,
    settings: SampleConfig,
) -> torch.Tensor:
    """Token grids (N, L) int64 of the given classes or captions; guidance u + s (c - u), no second pass where s is 1.

    Guidance holds for the positions inside `settings.interval`, shares of the sequence. A sample depends on its condition and
    seed, not on which others it is drawn with (up to the last bits of a matmul).
    """
    device = generator.output.weight.device
    count, guided = len(condition), settings.guidance != 1.0
    first, last_guided = (share * generator.tokens for share in settings.interval)
    condition = condition.to(device)
    if guided:
        null = generator.null(condition)
        condition = concatenate(
            generator.cls_embedding.drop(
                condition, torch.zeros(count, dtype=torch.bool, device=device)
            ),
            null,
        )
    draws = uniforms(seeds, generator.tokens).to(device)
    half = device.type == "cuda"  # where it is faster; logits are compared in fp64 either way
    caches = generator.new_cache(
        condition, torch.bfloat16 if half else generator.output.weight.dtype
    )
    tokens = torch.empty(count, generator.tokens, dtype=torch.int64, device=device)
    last = None
    for position in range(generator.tokens):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = generator.decode(last, condition, caches, position).double()
        if guided:
            conditional, unconditional = logits.chunk(2)
            scale = settings.guidance if first <= position < last_guided else 1.0
            logits = unconditional + scale * (conditional - unconditional)
        kept = truncate(logits / settings.temperature, settings.top_k, settings.top_p)
        tokens[:, position] = pick(kept, draws[:, position])
        last = torch.cat([tokens[:, position]] * 2) if guided else tokens[:, position]
    return tokens


def draw(
    generator: Generator,
    given: Callable[[np.ndarray], Condition],
    seeds: np.ndarray,
    settings: SampleConfig,
    batch: int,
) -> np.ndarray:
    """Return token grids (N, L) int64, sampled `batch` at a time with progress; the batch changes no token.

    given: positions 0..N-1 to their conditions.
    """
    parts = []
    for start in range(0, len(seeds), batch):
        rows = np.arange(start, min(start + batch, len(seeds)))
        parts.append(sample(generator, given(rows), seeds[rows], settings).cpu().numpy())
        print(f"sampled {rows[-1] + 1}/{len(seeds)}", flush=True)
    return np.concatenate(parts)
