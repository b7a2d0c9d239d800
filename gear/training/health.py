"""The codebook's health while training: usage and perplexity over a window of steps, and the gate on them."""

from __future__ import annotations

import torch
import torch.distributed as dist

from gear.config import HealthConfig, StageFailed


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
        self.counts += torch.bincount(indices_BL.reshape(-1), minlength=len(self.counts))

    def close_window(self) -> dict[str, float]:
        """Usage in [0, 1] and perplexity in [1, K] over the window and all ranks; starts the next window."""
        if dist.is_initialized():
            dist.all_reduce(self.counts)
        self.latest = summary(self.counts)
        self.counts.zero_()
        return self.latest

    def check(self, step: int) -> None:
        """Raise `Collapse` if the last closed window is under the thresholds and the gate is open."""
        if step < self.config.after_step or not self.latest:
            return
        usage = self.latest["codebook/usage"]
        share = self.latest["codebook/perplexity"] / len(self.counts)
        for name, value, least in (
            ("usage", usage, self.config.min_usage),
            ("perplexity / K", share, self.config.min_perplexity),
        ):
            if value < least:
                raise Collapse(f"codebook collapsed: {name} {value:.4f} is under health.min_{name.split()[0]} = {least} at step {step}")


def summary(counts_K: torch.Tensor) -> dict[str, float]:
    """Usage and perplexity exp(H) of a histogram of codes, (K,) int64."""
    share = counts_K.double() / counts_K.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-30).log()).sum()
    return {"codebook/usage": (counts_K > 0).double().mean().item(), "codebook/perplexity": entropy.exp().item()}
