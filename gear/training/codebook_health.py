"""The codebook's health while training: usage and perplexity over a window of steps, and the gate on them."""

from __future__ import annotations

import torch
import torch.distributed as dist

from gear.core.errors import StageFailed
from gear.training.config import HealthConfig


class Collapse(StageFailed):
    """The codebook collapsed: training stopped on purpose."""


class CodebookHealth:
    """Counts codes on the device; reads them back once a window, so no step waits for the host."""

    def __init__(self, config: HealthConfig, codes: int, device: torch.device) -> None:
        self.config = config
        self.counts = torch.zeros(codes, dtype=torch.int64, device=device)
        self.latest: dict[str, float] = {}

    def count(self, indices_BL: torch.Tensor) -> None:
        """Add a batch's indices."""
        flat = indices_BL.reshape(-1)
        self.counts.scatter_add_(
            0, flat, torch.ones_like(flat)
        )  # bincount would ask a GPU for its largest index

    def close_window(self) -> dict[str, float]:
        """Usage in [0, 1] and perplexity in [1, K] over the window and all ranks; starts the next window."""
        if dist.is_initialized():
            dist.all_reduce(self.counts)
        self.latest = summary(self.counts)
        self.counts.zero_()
        return self.latest

    def broken(self) -> str | None:
        """What is under its threshold in the last closed window, in words; None where all is fine or no window has closed."""
        return verdict(self.config, self.latest, len(self.counts)) if self.latest else None

    def check(self, step: int) -> None:
        """Raise `Collapse` if the last closed window is under the thresholds and the gate is open."""
        found = self.broken() if step >= self.config.after_step else None
        if found:
            raise Collapse(f"codebook collapsed: {found} at step {step}")


def verdict(config: HealthConfig, measured: dict[str, float], codes: int) -> str | None:
    """The first of `codebook/usage` and `codebook/perplexity` that is under its threshold, in words; None where both are fine."""
    for name, value, least in (
        ("usage", measured["codebook/usage"], config.min_usage),
        ("perplexity / K", measured["codebook/perplexity"] / codes, config.min_perplexity),
    ):
        if value < least:
            return f"{name} {value:.4f} is under health.min_{name.split()[0]} = {least}"
    return None


def summary(counts_K: torch.Tensor) -> dict[str, float]:
    """Usage and perplexity exp(H) of a histogram of codes, (K,) int64."""
    share = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-30).log()).sum()
    return {
        "codebook/usage": (counts_K > 0).double().mean().item(),
        "codebook/perplexity": entropy.exp().item(),
    }
