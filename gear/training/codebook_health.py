"""Codebook health during training: usage and perplexity over a window of steps, with limits."""

from __future__ import annotations

import torch
import torch.distributed as dist

from gear.core.errors import StageFailed
from gear.training.config import HealthConfig


class Collapse(StageFailed):
    """Raised to stop training because the codebook has collapsed."""


class CodebookHealth:
    """Counts codes on the device; read once a window, so that steps do not synchronize with it."""

    def __init__(self, config: HealthConfig, codes: int, device: torch.device) -> None:
        self.config = config
        self.counts = torch.zeros(codes, dtype=torch.int64, device=device)
        self.latest: dict[str, float] = {}

    def count(self, indices_BL: torch.Tensor) -> None:
        """Add a batch's indices."""
        flat = indices_BL.reshape(-1)
        # bincount would wait for the GPU to return the largest index
        self.counts.scatter_add_(0, flat, torch.ones_like(flat))

    def window_counts(self) -> torch.Tensor:
        """Return counts of the current window over all ranks, (K,) int64. Call it on all ranks."""
        counts = self.counts.clone()
        if dist.is_initialized():
            dist.all_reduce(counts)
        return counts

    def restore(self, counts_K: torch.Tensor, *, mine: bool) -> None:
        """Continue with the counts of a saved window, all on one rank: the one with `mine`."""
        self.counts.copy_(counts_K if mine else torch.zeros_like(counts_K))

    def close_window(self) -> dict[str, float]:
        """Return usage in [0, 1] and perplexity in [1, K] of the window over all ranks.

        Starts the next window. Call it on all ranks.
        """
        if dist.is_initialized():
            dist.all_reduce(self.counts)
        self.latest = summary(self.counts)
        self.counts.zero_()
        return self.latest

    def broken(self) -> str | None:
        """Return a message on a value below its limit in the last window; None if there is none."""
        return below_limit(self.config, self.latest, len(self.counts)) if self.latest else None

    def check(self, step: int) -> None:
        """Raise `Collapse` if the last window is below a limit, from `health.after_step` on."""
        found = self.broken() if step >= self.config.after_step else None
        if found:
            raise Collapse(f"codebook collapsed: {found} at step {step}")


def below_limit(config: HealthConfig, measured: dict[str, float], codes: int) -> str | None:
    """Return a message on usage or perplexity below its limit; None if neither is.

    measured: the result of `summary`. codes: codebook size K.
    """
    for name, value, least in (
        ("usage", measured["codebook/usage"], config.min_usage),
        ("perplexity / K", measured["codebook/perplexity"] / codes, config.min_perplexity),
    ):
        if value < least:
            return f"{name} {value:.4f} is under health.min_{name.split()[0]} = {least}"
    return None


def summary(counts_K: torch.Tensor) -> dict[str, float]:
    """Return usage in [0, 1] and perplexity exp(H) in [1, K] of code counts, (K,) int64.

    >>> summary(torch.tensor([3, 3, 0, 0]))
    {'codebook/usage': 0.5, 'codebook/perplexity': 2.0}
    """
    share = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-30).log()).sum()
    return {
        "codebook/usage": (counts_K > 0).double().mean().item(),
        "codebook/perplexity": entropy.exp().item(),
    }
