"""Sample token grids: KV cache, classifier-free guidance, one seed per sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gear.core.ranks import ALONE, Ranks
from gear.data.row_selection import batches
from gear.generator.conditioning import Condition, concatenate
from gear.generator.config import SampleConfig
from gear.generator.transformer import Generator

SEED_STRIDE = 1_000_003


def sample_seeds(seed: int, count: int) -> np.ndarray:
    """Return the seeds of a run's first `count` samples, (count,) int64: seed * SEED_STRIDE + i."""
    return seed * SEED_STRIDE + np.arange(count)


def uniforms(seeds: np.ndarray, tokens: int) -> torch.Tensor:
    """Return uniform numbers in [0, 1), (N, tokens) float64; row i depends on seeds[i] alone."""
    rows = [np.random.Generator(np.random.Philox(int(seed))).random(tokens) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def truncate(logits_BK: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """Apply top-k, then top-p (nucleus) truncation: other logits become -inf.

    top_k: number of most likely codes that stay; 0 for all.
    top_p: the fewest most likely codes whose probabilities sum to at least this stay; 1 for all.

    >>> probabilities = torch.tensor([[0.5, 0.3, 0.2]])
    >>> truncate(probabilities.log(), 0, 0.7).softmax(-1)
    tensor([[0.6250, 0.3750, 0.0000]])
    """
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
    """Sample from softmax(logits) by the inverse CDF of given uniform numbers, (B,) int64.

    >>> pick(torch.zeros(1, 4), torch.tensor([0.6]))
    tensor([2])
    """
    cumulative = logits_BK.softmax(-1).cumsum(-1)
    target = uniforms_B.to(cumulative)[:, None] * cumulative[:, -1:]
    codes = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return codes.clamp(max=logits_BK.shape[-1] - 1)


@torch.no_grad()
def sample(
    generator: Generator,
    condition: Condition,
    seeds: np.ndarray,
    settings: SampleConfig,
) -> torch.Tensor:
    """Sample token grids, (N, L) int64, for N classes or captions.

    Logits are u + s (c - u) at the positions inside `settings.interval`, c elsewhere; there is no
    unconditional pass if the guidance scale s is 1. A sample depends on its condition and seed, not
    on the others in the batch (up to the last bits of a matmul).
    """
    device = generator.output.weight.device
    count = len(condition)
    guided = settings.guidance != 1.0
    first, last_guided = (share * generator.tokens for share in settings.interval)
    condition = condition.to(device)
    if guided:
        null = generator.null(condition)
        kept = torch.zeros(count, dtype=torch.bool, device=device)
        condition = concatenate(generator.cls_embedding.drop(condition, kept), null)
    draws = uniforms(seeds, generator.tokens).to(device)
    half = device.type == "cuda"  # bf16 is faster there; logits become fp64 either way
    dtype = torch.bfloat16 if half else generator.output.weight.dtype
    caches = generator.new_cache(condition, dtype)
    tokens = torch.empty(count, generator.tokens, dtype=torch.int64, device=device)
    last = None
    for position in range(generator.tokens):
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = generator.decode(last, condition, caches, position).double()
        if guided:
            conditional, unconditional = logits.chunk(2)
            scale = settings.guidance if first <= position < last_guided else 1.0
            logits = unconditional + scale * (conditional - unconditional)
        logits = truncate(logits / settings.temperature, settings.top_k, settings.top_p)
        tokens[:, position] = pick(logits, draws[:, position])
        last = torch.cat([tokens[:, position]] * 2) if guided else tokens[:, position]
    return tokens


def draw(
    generator: Generator,
    conditions: Callable[[np.ndarray], Condition],
    seeds: np.ndarray,
    settings: SampleConfig,
    batch: int,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Sample token grids, (N, L) int64, `batch` at a time.

    As in `sample`, a sample does not depend on the others in its batch.

    Args:
        generator: The generator.
        conditions: Function from positions 0..N-1 to their conditions.
        seeds: Seeds of the samples, (N,) int64.
        settings: How to sample.
        batch: Number of samples drawn at a time.
        ranks: Share the work.
    """

    def draw_part(part: slice) -> np.ndarray:
        rows = np.arange(part.start, part.stop)
        return sample(generator, conditions(rows), seeds[part], settings).cpu().numpy()

    parts: list[np.ndarray] = []
    done = 0
    for tokens in ranks.map(draw_part, batches(len(seeds), batch)):
        parts.append(tokens)
        done += len(tokens)
        if ranks.is_rank_zero:
            print(f"sampled {done}/{len(seeds)}", flush=True)
    return np.concatenate(parts)
